# Section "Time spans" of what a drop-in has to match: tests/spans.tsv, row by row, by both programs' command line.
# What number comes out is tested in tests/unit/span_test.c.

load compat

# A span that is taken leads on to the next complaint.
TAKEN="Didn't get any sockets passed in."
REFUSED='Failed to parse --exit-idle-time= argument:'

# rows VERDICT: reads the table's rows of that verdict into the array TEXTS.
rows() {
	local verdict text
	TEXTS=()
	while IFS= read -r text; do
		verdict=${text%%$'\t'*} text=${text#*$'\t'}
		if [ "$verdict" = accept ]; then text=${text%$'\t'*}; fi
		if [ "$verdict" = "$1" ]; then TEXTS+=("$text"); fi
	done <"$ROOT/tests/spans.tsv"
	echo "${#TEXTS[@]} rows to $1"
	[ "${#TEXTS[@]}" -ge 60 ]
}

@test "every time span of the table that is to be accepted is" {
	local text
	rows accept
	for text in "${TEXTS[@]}"; do
		both_fail "$TAKEN" --exit-idle-time="$text" target
	done
}

@test "every time span of the table that is to be refused is, and the message names it" {
	local text
	rows refuse
	for text in "${TEXTS[@]}"; do
		both_fail "$REFUSED $text" --exit-idle-time="$text" target
	done
}

@test "a refused time span may be the next word, and the message goes on with what would be right" {
	both_fail "$REFUSED 5x" --exit-idle-time 5x target
	both_fail "$REFUSED -1" target --exit-idle-time -1
	fails "$REFUSED 5x (a time span is wanted, such as 500ms, 30s, 1min 30s or infinity)" \
		"$PROXYD" --exit-idle-time=5x target
}
