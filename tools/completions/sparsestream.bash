# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=bash
# Completion of the sparsestream command for bash.

# Completes the value of an option.
_sparsestream_value() {
    local i
    case $1 in
    --direct) mapfile -t COMPREPLY < <(compgen -W 'never auto always' -- "$2") ;;
    --sparse) mapfile -t COMPREPLY < <(compgen -W 'auto required never' -- "$2") ;;
    --progress) mapfile -t COMPREPLY < <(compgen -W 'bar json none' -- "$2") ;;
    --preserve)
        mapfile -t COMPREPLY < <(compgen -W 'mode ownership timestamps xattr all' -- "$2")
        ;;
    --on-read-error) mapfile -t COMPREPLY < <(compgen -W 'fail skip' -- "$2") ;;
    --state | --error-map | --tls-psk)
        mapfile -t COMPREPLY < <(compgen -f -- "$2")
        compopt -o filenames
        ;;
    --tls-certificates)
        mapfile -t COMPREPLY < <(compgen -d -- "$2")
        compopt -o filenames
        ;;
    --exec)
        mapfile -t COMPREPLY < <(compgen -c -- "$2")
        ;;
    --connect | --listen)
        # The shell takes a colon as a word of its own; what stands before it is typed already.
        case $2 in
        unix:*)
            mapfile -t COMPREPLY < <(compgen -f -- "${2#unix:}")
            if [[ $COMP_WORDBREAKS != *:* ]]; then
                for i in "${!COMPREPLY[@]}"; do COMPREPLY[i]=unix:${COMPREPLY[i]}; done
            fi
            compopt -o filenames
            ;;
        *)
            mapfile -t COMPREPLY < <(compgen -W 'unix: tcp: vsock:' -- "$2")
            compopt -o nospace
            ;;
        esac
        ;;
    esac
}

_sparsestream() {
    local commands='map copy check checksum send recv help'
    local common='--detect-zeroes --min-hole --direct --sparse --rate --timeout --progress --verbose --explain'
    local sink='--known-zero --sync --truncate --no-truncate --device --shared --no-lock --force'
    local exports='--backing-chain --connections --requests --request-size --memory'
    exports+=' --tls-certificates --tls-psk --tls-username --no-verify-peer'
    local wire='--connect --listen --exec --idle-timeout --checksum --no-checksum --resume --restart'
    local line=${COMP_LINE:0:COMP_POINT}
    local current=${line##*[[:space:]]}
    local previous=${COMP_WORDS[COMP_CWORD - 1]}
    local command=${COMP_WORDS[1]-} options

    COMPREPLY=()
    # A value behind = or : is one word for the user, and several for the shell.
    case $current in
    --*=*)
        _sparsestream_value "${current%%=*}" "${current#*=}"
        return
        ;;
    unix:* | tcp:* | vsock:*)
        previous=--connect
        ;;
    esac
    if [[ $COMP_CWORD -le 1 ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$commands --help --version" -- "$current")
        return
    fi
    case $command in
    help)
        mapfile -t COMPREPLY < <(compgen -W "${commands% help}" -- "$current")
        return
        ;;
    map) options="$exports --json --list --range --rows --timeout" ;;
    copy) options="$exports --dry-run --verify --only-changes --on-read-error --error-map --preallocate --range --at --preserve --ignore-map $common $sink" ;;
    check) options="$exports --holes --range --ignore-map --progress --quiet --timeout" ;;
    checksum)
        options="$exports --check --ignore-map --ignore-missing --json --progress --quiet --range --status --strict --timeout --warn"
        ;;
    send) options="--on-read-error --error-map --answers $exports --no-identity --no-lock --range --ignore-map $common $wire" ;;
    recv) options="$exports --checkpoint --state --max-size --mode --range $common $sink $wire" ;;
    *) return ;;
    esac
    case $previous in
    --direct | --sparse | --state | --tls-certificates | --tls-psk | --on-read-error | --error-map | --exec | --connect | --listen)
        _sparsestream_value "$previous" "$current"
        return
        ;;
    --range | --at | --min-hole | --rate | --timeout | --idle-timeout | --mode | --rows | --checkpoint | --max-size | \
        --connections | --requests | --request-size | --memory | --tls-username)
        return
        ;;
    esac
    if [[ $current == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$options --help" -- "$current")
    else
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        compopt -o filenames
    fi
}

complete -F _sparsestream sparsestream
