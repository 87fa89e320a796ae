# plotdata.awk - from bench.tsv what plot.gp draws: a line a row, a column a proxy, "-" where there is no figure.
#
#      what=bars    CPU for a unit of work, relative to systemd-socket-proxyd (to proxyd, where that is not in the run)
#      what=growth  CPU of a ping against the number of idle connections beside

BEGIN {
	FS = "\t"
	columns = split("proxyd systemd haproxy nginx socat", column, " ")
}

/^#/ || $1 == "row" { next }
$3 == "cpu" && (what == "bars") == ($1 !~ /^idle/) {
	if (!($1 in seen)) {
		seen[$1] = 1
		rows[++row_count] = $1
	}
	cpu[$1, $2] = $5
	here[$2] = 1
}

function title(proxy) { return proxy == "systemd" ? "systemd-socket-proxyd" : proxy }

END {
	base = what == "growth" ? "" : "systemd" in here ? "systemd" : "proxyd"
	printf "%s", base ? title(base) : "idle"
	for (c = 1; c <= columns; c++)
		printf " %s", title(column[c])
	printf "\n"
	for (r = 1; r <= row_count; r++) {
		scale = base ? cpu[rows[r], base] : 1
		if (!scale)
			continue
		name = rows[r]
		if (what == "growth")
			sub(/^idle-/, "", name)
		printf "%s", name
		for (c = 1; c <= columns; c++)
			printf " %s", cpu[rows[r], column[c]] ? cpu[rows[r], column[c]] / scale : "-"
		printf "\n"
	}
}
