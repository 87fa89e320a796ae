# plot.gp - bench.svg from what plotdata.awk makes of bench.tsv.
#
# Given with -e: bars and growth (the two files), out, and what (date, kernel, CPU).  Above, CPU for a unit of work
# against systemd-socket-proxyd, so shorter is better; below, CPU of a ping against idle connections, so flat is good.

set terminal svg size 1000,860 dynamic font 'sans-serif,13' background '#ffffff'
set output out
set datafile missing '-'
set multiplot
set lmargin 6
set style line 1 lc rgb '#0b6e4f' lw 3 pt 7 ps 0.8
set style line 2 lc rgb '#c8553d' lw 2 pt 5 ps 0.7
set style line 3 lc rgb '#e0a458' lw 2 pt 9 ps 0.8
set style line 4 lc rgb '#6b7a8f' lw 2 pt 11 ps 0.8
set style line 5 lc rgb '#c9c9c9' lw 2 pt 13 ps 0.8
set border 3 lc rgb '#808080'
set tics nomirror out
set grid ytics lc rgb '#e4e4e4' lw 1
set label 1 what at screen 0.99,0.012 right font ',10' tc rgb '#707070'

base = system("head -n 1 '" . bars . "' | cut -d ' ' -f 1")
set title 'CPU of the proxy for the same work, '.base.' = 1 (shorter is better; cut at 3)' offset 5,0
set origin 0,0.40
set size 1,0.60
set style data histogram
set style histogram clustered gap 1
set style fill solid 1.0 border rgb '#ffffff'
set boxwidth 1
set yrange [0:3]
set xtics rotate by -35 left font ',11'
set key outside right top vertical samplen 1 font ',11'
plot for [c = 2:6] bars using (column(c) > 3 ? 3 : column(c)):xtic(1) ls c - 1 title columnheader(c)

unset label 1
set title 'CPU of a 64-byte ping on 64 connections beside idle ones, microseconds'
set rmargin 4
set origin 0,0.02
set size 1,0.38
set yrange [0:*]
set xrange [0:*]
set xtics norotate center autofreq font ',11'
set xlabel 'idle connections' offset 0,0.5
unset key
plot for [c = 2:5] growth using 1:c with linespoints ls c - 1 title columnheader(c)
unset multiplot
set lmargin 6
