# medians.awk - the lines of load, one a measurement, into bench.tsv: the median of each figure over the rounds, and the
# least and the greatest.
#
# For "direct" there is no proxy, and the CPU is the server's own.  CPU is in seconds a GB (10^9 bytes) for bulk and in
# microseconds an operation for the rest.  The windows of the row "idle" become rows "idle-N", one for each number of
# idle connections; what the highest N costs against none is figured out in each round and is the row "idle".

function add(row, proxy, metric, unit, x,   key) {
	key = row "\t" proxy "\t" metric "\t" unit
	if (!(key in count)) {
		order[++keys] = key
		count[key] = 0
	}
	figure[key, ++count[key]] = x + 0
}

# Sorts the figures of a key in place; there are few.
function sort(key,   i, j, x) {
	for (i = 2; i <= count[key]; i++) {
		x = figure[key, i]
		for (j = i - 1; j >= 1 && figure[key, j] > x; j--)
			figure[key, j + 1] = figure[key, j]
		figure[key, j + 1] = x
	}
}

function median(key,   n) {
	n = count[key]
	return n % 2 ? figure[key, (n + 1) / 2] : (figure[key, n / 2] + figure[key, n / 2 + 1]) / 2
}

function idle(   at) {
	at = v["round"] "\t" v["proxy"]
	if (v["idle"] == 0) {
		cpu0[at] = cpu / v["ops"]
		rss0[at] = v["rss_proxy"]
		descriptors0[at] = v["descriptors_proxy"]
	}
	held[at] = v["idle"]
	cpu1[at] = cpu / v["ops"]
	rss1[at] = v["rss_proxy"]
	descriptors1[at] = v["descriptors_proxy"]
}

function idle_end(   at, part) {
	for (at in held) {
		split(at, part, "\t")
		if (!held[at] || !cpu0[at])
			continue
		add("idle", part[2], "held", "connections", held[at])
		add("idle", part[2], "cpu_ratio", "x", cpu1[at] / cpu0[at])
		if (part[2] == "direct")
			continue
		add("idle", part[2], "memory", "bytes", (rss1[at] - rss0[at]) / held[at])
		add("idle", part[2], "descriptors", "each", (descriptors1[at] - descriptors0[at]) / held[at])
	}
}

{
	split("", v)
	for (i = 1; i <= NF; i++) {
		equals = index($i, "=")
		v[substr($i, 1, equals - 1)] = substr($i, equals + 1)
	}
	row = v["row"]
	proxy = v["proxy"]
	work = v["work"]
	cpu = proxy == "direct" ? v["cpu_server"] : v["cpu_proxy"]
}

work == "up" || work == "down" || work == "fair" {
	add(row, proxy, "cpu", "s/GB", v["bulk_bytes"] ? cpu / (v["bulk_bytes"] / 1e9) : 0)
	add(row, proxy, "bulk_rate", "GB/s", v["bulk_rate"] / 1e9)
}
work == "ping" && row == "idle" {
	idle()
	row = "idle-" v["idle"]
}
(work == "ping" || work == "close") && v["ops"] > 0 {
	add(row, proxy, "cpu", "us/op", cpu / v["ops"] * 1e6)
}
work == "ping" || work == "close" || work == "fair" {
	add(row, proxy, "rate", "op/s", v["rate"])
	add(row, proxy, "p50", "us", v["p50_us"])
	add(row, proxy, "p99", "us", v["p99_us"])
}
work == "start" {
	add(row, proxy, "first_byte", "ms", v["p50_us"] / 1000)
	add(row, proxy, "resident", "KB", v["rss"] / 1024)
}
work == "size" {
	add("start", proxy, "size", "KB", v["bytes"] / 1024)
}

END {
	idle_end()
	print "row\tproxy\tmetric\tunit\tmedian\tleast\tgreatest\trounds"
	for (i = 1; i <= keys; i++) {
		sort(order[i])
		printf "%s\t%.6g\t%.6g\t%.6g\t%d\n", order[i], median(order[i]), figure[order[i], 1],
			figure[order[i], count[order[i]]], count[order[i]]
	}
}
