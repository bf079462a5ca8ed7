# Completion of greetsvc for bash.
_greetsvc() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
    # An equals sign is a word of its own, as in --log-format=json.
    [ "$before" = "=" ] && before=${COMP_WORDS[COMP_CWORD - 2]}
    [ "$word" = "=" ] && word= && before=${COMP_WORDS[COMP_CWORD - 1]}
    COMPREPLY=()
    case $before in
        --config) _greetsvc_from -f ;;
        --client-ca) _greetsvc_from -f ;;
        --log-visits) _greetsvc_from -W "all summary off" ;;
        --log-format) _greetsvc_from -W "text json" ;;
        --print-unit) _greetsvc_from -W "service socket" ;;
        --listen|--greeting|--greeter|--protocol|--encoding|--max-connections|--max-per-source|--deadline|--linger|--drain|--udp-budget|--trust-proxy|--admin|--admin-host|--workers) ;;
        *) _greetsvc_from -W "--listen --greeting --greeter --protocol --encoding --config --check --list --max-connections --max-per-source --deadline --linger --drain --udp-budget --trust-proxy --client-ca --admin --admin-host --workers --log-visits --log-format --print-unit --version --help" ;;
    esac
}
_greetsvc_from() {
    mapfile -t COMPREPLY < <(compgen "$@" -- "$word")
}
complete -o filenames -F _greetsvc greetsvc
