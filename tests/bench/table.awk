# table.awk - bench.tsv as tables for a terminal: what each proxy's CPU is for a unit of work, how fast it went, how
# proxyd stands to each peer, and which of the bars of the project it meets.
#
# A bar is a ratio of medians of one run, proxyd's to a peer's, or an absolute figure.  "better" is the better of
# HAProxy and nginx.  A bar whose peer is not in the run is not counted.

BEGIN {
	FS = "\t"
	columns = split("direct proxyd systemd haproxy nginx socat", column, " ")
}

/^#/ { print; next }
$1 == "row" { next }
{
	if (!($1 in seen)) {
		seen[$1] = 1
		rows[++row_count] = $1
	}
	m[$1, $2, $3] = $5
	spread[$1, $2, $3] = $5 > 0 ? ($7 - $6) / 2 / $5 * 100 : 0
	unit[$1, $3] = $4
	here[$2] = 1
}

function round3(x) { return x >= 1000 ? sprintf("%.0f", x) : sprintf("%.3g", x) }

function cell(row, proxy, metric, scale,   key) {
	if (!((row, proxy, metric) in m))
		return "-"
	key = row SUBSEP proxy SUBSEP metric
	return sprintf(spread[key] < 99.5 ? "%s +-%.0f%%" : "%s  >99%%", round3(m[key] / scale), spread[key])
}

function head(title,   c) {
	printf "\n%s\n%-18s %-6s", title, "work", "unit"
	for (c = 1; c <= columns; c++)
		if (column[c] in here)
			printf " %14s", column[c]
	printf "\n"
}

# A table of one metric over the rows that have it.
function metric_table(title, metric, scale, unit_name,   r, c, begun) {
	for (r = 1; r <= row_count; r++) {
		if (!((rows[r], metric) in unit))
			continue
		if (!begun++)
			head(title)
		printf "%-18s %-6s", rows[r], unit_name ? unit_name : unit[rows[r], metric]
		for (c = 1; c <= columns; c++)
			if (column[c] in here)
				printf " %14s", cell(rows[r], column[c], metric, scale)
		printf "\n"
	}
}

# proxyd's figure to a peer's; 0 if one of them is missing.
function ratio(row, metric, peer,   a, b) {
	if (!((row, "proxyd", metric) in m))
		return 0
	if (peer == "better") {
		a = m[row, "haproxy", metric]
		b = m[row, "nginx", metric]
		b = !a || (b && b < a) ? b : a
	} else
		b = m[row, peer, metric]
	return b ? m[row, "proxyd", metric] / b : 0
}

function judge(x, bar) {
	if (x <= bar)
		met++
	else
		missed++
	return x <= bar ? "met" : "MISSED"
}

# One line: the ratio to each peer, with the bar behind it where there is one.
function ratio_line(row, metric,   i, n, peer, x, bar, text, verdict, word) {
	n = split("direct systemd haproxy nginx better socat", peer, " ")
	printf "%-18s %-6s", row, metric
	verdict = ""
	for (i = 1; i <= n; i++) {
		x = ratio(row, metric, peer[i])
		text = x ? sprintf("%.2f", x) : "-"
		bar = bars[row, metric, peer[i]]
		if (x && bar) {
			word = judge(x, bar)
			text = text " <=" bar (word == "met" ? " " : "!")
			verdict = verdict == "MISSED" ? verdict : word
		} else
			text = text "       "
		printf " %13s", text
	}
	printf "  %s\n", verdict
}

function set_bars(   i, n, name) {
	n = split("down up", name, " ")
	for (i = 1; i <= n; i++) {
		bulk_bars("bulk-" name[i] "-1-tcp", 0.65)
		bulk_bars("bulk-" name[i] "-1-unix", 0.65)
		bulk_bars("bulk-" name[i] "-16-tcp", 0.8)
		bulk_bars("bulk-" name[i] "-16-unix", 0.8)
	}
	bars["ping64-64", "cpu", "systemd"] = 0.45
	bars["ping64-64", "cpu", "better"] = 0.9
	bars["ping64-64", "cpu", "direct"] = 2.3
	bars["close", "cpu", "systemd"] = 0.5
	bars["close", "cpu", "better"] = 0.95
	bars["fair", "p99", "systemd"] = 0.1
	bars["fair", "p99", "better"] = 0.5
}

function bulk_bars(row, systemd) {
	bars[row, "cpu", "systemd"] = systemd
	bars[row, "cpu", "haproxy"] = 0.5
	bars[row, "cpu", "nginx"] = 0.3
}

function ratios(   r, begun) {
	for (r = 1; r <= row_count; r++) {
		if (rows[r] ~ /^(idle|start)/ || !((rows[r], "proxyd", "cpu") in m))
			continue
		if (!begun++) {
			printf "\nproxyd's figure / the peer's, with the bar (better: of HAProxy and nginx; ! missed)\n"
			printf "%-18s %-6s %13s %13s %13s %13s %13s %13s\n", "work", "", "direct       ",
				"systemd       ", "haproxy       ", "nginx       ", "better       ", "socat       "
		}
		ratio_line(rows[r], "cpu")
		if (rows[r] == "fair")
			ratio_line(rows[r], "p99")
	}
}

function absolute(what, x, bar, unit_name) {
	printf "%-52s %10s %-6s <= %-6s %s\n", what, round3(x), unit_name, bar, judge(x, bar)
}

function absolutes(   s, x) {
	printf "\n"
	if (("idle", "proxyd", "memory") in m) {
		s = sprintf("beside %d idle connections: ", m["idle", "proxyd", "held"])
		absolute(s "memory each", m["idle", "proxyd", "memory"], 400, "bytes")
		absolute(s "descriptors each", m["idle", "proxyd", "descriptors"], 2, "")
		absolute(s "CPU of ping64", m["idle", "proxyd", "cpu_ratio"], 1.1, "x")
	}
	if (!(("start", "static", "first_byte") in m))
		return
	if (("start", "systemd", "first_byte") in m) {
		x = m["start", "static", "first_byte"] / m["start", "systemd", "first_byte"]
		absolute("start to first byte, static / systemd", x, 0.2, "x")
	}
	absolute("resident memory, static", m["start", "static", "resident"], 600, "KB")
	if (("start", "static", "size") in m)
		absolute("size, static", m["start", "static", "size"], 100, "KB")
}

# Rows whose columns are not those of the rest.
function start_table(   i, n, proxy) {
	if (!("start" in seen))
		return
	printf "\nStart: exec to first byte, resident memory then, size with libraries\n"
	n = split("proxyd static systemd", proxy, " ")
	for (i = 1; i <= n; i++)
		if (("start", proxy[i], "first_byte") in m)
			printf "%-25s %18s ms %18s KB %14s KB\n", proxy[i] == "static" ? "proxyd, static" : proxy[i],
				cell("start", proxy[i], "first_byte", 1), cell("start", proxy[i], "resident", 1),
				round3(m["start", proxy[i], "size"])
}

END {
	set_bars()
	metric_table("CPU of the proxy for a unit of work (direct: the server's own)", "cpu", 1)
	metric_table("Operations", "rate", 1000, "k/s")
	metric_table("Bulk", "bulk_rate", 1)
	metric_table("Latency, median", "p50", 1)
	metric_table("Latency, 99th percentile", "p99", 1)
	metric_table("Idle connections held", "held", 1, "count")
	metric_table("Resident memory for each", "memory", 1)
	metric_table("Descriptors for each", "descriptors", 1)
	metric_table("CPU of ping64 beside them / without", "cpu_ratio", 1)
	start_table()
	ratios()
	absolutes()
	printf "\n%d bars met, %d missed\n", met, missed
}
