# shellcheck shell=bash
# Completion of proxyd for bash.

_proxyd() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev='' value line
	local options='--connections-max= --listen= --when-full= --exit-idle-time= --inetd --connect-timeout=
		--connect-retry= --idle-timeout= --half-close-timeout= --keepalive= --shutdown-timeout= --buffer-size=
		--help --version'
	local i
	COMPREPLY=()
	[ "$COMP_CWORD" -eq 0 ] || prev=${COMP_WORDS[COMP_CWORD - 1]}

	# After a lone -- there are only targets.
	for ((i = 1; i < COMP_CWORD; i++)); do
		[ "${COMP_WORDS[i]}" != -- ] || options=
	done

	# Where = breaks words, --option=value is three of them.
	if [ "$cur" = = ]; then
		cur='' value=$prev
	elif [ "$prev" = = ] && [ "$COMP_CWORD" -ge 2 ]; then
		value=${COMP_WORDS[COMP_CWORD - 2]}
	elif [[ $cur == --*=* ]]; then
		value=${cur%%=*} cur=${cur#*=}
	else
		value=$prev
	fi
	[ -n "$options" ] || value=''

	case $value in
	--when-full)
		mapfile -t COMPREPLY < <(compgen -W 'refuse wait' -- "$cur")
		return 0 ;;
	--connections-max | -c | --exit-idle-time | --connect-timeout | --connect-retry | --idle-timeout | \
	--half-close-timeout | --keepalive | --shutdown-timeout | --buffer-size)
		return 0 ;;
	--listen | -l) ;;
	*)
		if [[ $cur == -* ]] && [ -n "$options" ]; then
			mapfile -t COMPREPLY < <(compgen -W "$options -c -l -h" -- "$cur")
			[[ ${COMPREPLY[0]-} != *= ]] || compopt -o nospace 2>/dev/null
			return 0
		fi ;;
	esac
	# A socket's path is absolute; other targets cannot be known.
	[[ $cur == /* ]] || return 0
	compopt -o filenames 2>/dev/null
	while IFS= read -r line; do
		COMPREPLY+=("$line")
	done < <(compgen -f -- "$cur")
}

complete -F _proxyd proxyd
