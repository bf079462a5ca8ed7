# Completion of greet for bash.
_greet() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
    # An equals sign is a word of its own, as in --log-format=json.
    [ "$before" = "=" ] && before=${COMP_WORDS[COMP_CWORD - 2]}
    [ "$word" = "=" ] && word= && before=${COMP_WORDS[COMP_CWORD - 1]}
    COMPREPLY=()
    case $before in
        --ca) _greet_from -f ;;
        --cert) _greet_from -f ;;
        --key) _greet_from -f ;;
        --talk) _greet_from -W "lines netstring int32 websocket" ;;
        -c|-i|-t|--expect|--warn|--size|--duration|--concurrency|--rate|--dscp|--source-port|--flows|--proxy-v1|--proxy-v2|--sni|--say|--hold|--encoding) ;;
        *) _greet_from -W "-c -i -t -4 -6 --expect --warn --json --nagios --healthcheck -v --size --duration --concurrency --rate --trace --mtu --dscp --source-port --flows --proxy-v1 --proxy-v2 --ca --insecure --cert --key --sni --talk --say --hold --encoding --version -h --help" ;;
    esac
}
_greet_from() {
    mapfile -t COMPREPLY < <(compgen "$@" -- "$word")
}
complete -o filenames -F _greet greet
