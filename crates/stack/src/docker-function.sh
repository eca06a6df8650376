# Brokers that run natively obey docker's words; everything else goes to the real docker.
unalias docker 2>/dev/null || :
docker() {
  if [ -e @UP@ ]; then
    case "${1:-}" in
      stop|start|restart|kill)
        _caudal_verb=$1
        _caudal_names=
        _caudal_other=
        shift
        for _caudal_word in "$@"; do
          case "$_caudal_word" in
            @NODES@) _caudal_names="$_caudal_names $_caudal_word" ;;
            -*|[0-9]*) ;;
            *) _caudal_other="$_caudal_other $_caudal_word" ;;
          esac
        done
        if [ -n "$_caudal_names" ] && [ -z "$_caudal_other" ]; then
          for _caudal_word in "$@"; do
            case "$_caudal_word" in
              @NODES@)
                @CAUDAL@ stack "$_caudal_verb" "$_caudal_word" || return
                printf '%s\n' "$_caudal_word"
                ;;
            esac
          done
          return 0
        fi
        set -- "$_caudal_verb" "$@"
        ;;
      ps)
        if [ "$#" -eq 1 ]; then
          @CAUDAL@ stack docker-ps
          return
        fi
        ;;
    esac
  fi
  if ( unset -f docker; command -v docker ) >/dev/null 2>&1; then
    command docker "$@"
  else
    echo "docker: not installed. The native brokers answer to docker stop|start|restart|kill|ps @NODES@ while the stack is up (caudal stack up)." >&2
    return 127
  fi
}
