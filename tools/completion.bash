# Completion of the programs in bash: `source tools/completion.bash`. Options come from a program's --help, config keys from
# `trainer --keys`, so that nothing here has to be kept up to date. An installed tree has them all as `mantissa PROGRAM`.
_mantissa() {
  local program=("$1") word=$2 previous=$3
  COMPREPLY=()
  if [[ ${1##*/} == mantissa && ${previous##*/} == mantissa ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$("$1" --help 2>/dev/null | sed -n 's/^  \([a-z]*\) .*/\1/p')" -- "$word")
    return
  fi
  if [[ ${1##*/} == mantissa ]]; then program+=("${COMP_WORDS[1]}"); fi
  if [[ $word == -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$("${program[@]}" --help 2>/dev/null | grep -oE -- '--[a-z][a-z0-9-]*')" -- "$word")
  elif [[ ${program[-1]##*/} == trainer && $previous != --config && $previous != --resume && $word != */* ]]; then
    mapfile -t COMPREPLY < <(compgen -S = -W "$("${program[@]}" --keys 2>/dev/null | sed -n 's/^- `\([^`]*\)`.*/\1/p')" -- "$word")
    compopt -o nospace 2>/dev/null
  fi
  if ((${#COMPREPLY[@]} == 0)); then mapfile -t COMPREPLY < <(compgen -f -- "$word"); fi
}
complete -o filenames -F _mantissa mantissa trainer generate score tokenize grade evaluate mismatch export bench
