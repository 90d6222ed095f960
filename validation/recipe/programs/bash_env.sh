# Read by every bash of a capture (BASH_ENV), before its script. Scripts put folders before PATH, replace PYTHONPATH, and call
# programs by absolute paths that this machine may not have. Before each command, put the stand-ins back in front.
# shellcheck shell=bash

__plumbline_keep() {
  case ":$PATH" in
    ":$PLUMBLINE_CAPTURE/bin:"*) ;;
    *) PATH="$PLUMBLINE_CAPTURE/bin:$PATH" ;;
  esac
  case ":${PYTHONPATH-}:" in
    ":$PLUMBLINE_CAPTURE/site:"*) ;;
    *) export PYTHONPATH="$PLUMBLINE_CAPTURE/site${PYTHONPATH:+:$PYTHONPATH}" ;;
  esac
  # No =~ here: it would overwrite the BASH_REMATCH of the script.
  local __plumbline_word="$1" __plumbline_rest
  while [[ $__plumbline_word == [A-Za-z_]*=*[[:space:]]* && ${__plumbline_word%%=*} != *[!A-Za-z0-9_]* ]]; do
    __plumbline_rest="${__plumbline_word#*[[:space:]]}"
    __plumbline_word="${__plumbline_rest#"${__plumbline_rest%%[![:space:]]*}"}"
  done
  __plumbline_word="${__plumbline_word%%[[:space:]]*}"
  # A path, or a variable with what belongs to a path: nothing else is expanded here.
  __plumbline_rest="${__plumbline_word#\"}" __plumbline_rest="${__plumbline_rest%\"}"
  if [[ $__plumbline_rest == \$[A-Za-z_]* ]]; then
    __plumbline_rest="${__plumbline_rest#\$}" __plumbline_rest="${__plumbline_rest#"${__plumbline_rest%%[!A-Za-z0-9_]*}"}"
  elif [[ $__plumbline_rest == \$\{[A-Za-z_]*\}* ]]; then
    __plumbline_rest="${__plumbline_rest#\$\{}" __plumbline_rest="${__plumbline_rest#"${__plumbline_rest%%[!A-Za-z0-9_]*}"}"
    __plumbline_rest="${__plumbline_rest#\}}"
  fi
  if [[ $__plumbline_rest != *[!A-Za-z0-9_./-]* && $__plumbline_word == *[/\$]* ]]; then
    eval "__plumbline_word=$__plumbline_word" 2>/dev/null || return 0
    __plumbline_word="${__plumbline_word%%[[:space:]]*}"
    if [[ $__plumbline_word == */* && $__plumbline_word != *[!A-Za-z0-9_./-]* && $__plumbline_word != "$PLUMBLINE_CAPTURE"/* &&
      -x "$PLUMBLINE_CAPTURE/bin/${__plumbline_word##*/}" ]]; then
      eval "function $__plumbline_word { \"\$PLUMBLINE_CAPTURE/bin/${__plumbline_word##*/}\" \"\$@\"; }"
    fi
  fi
  return 0
}
# What a script looks for and does not find is written down: its number of GPUs may come from there.
command_not_found_handle() {
  printf '%s\n' "$1" >>"$PLUMBLINE_CAPTURE/absent"
  printf '%s: command not found\n' "$1" >&2
  return 127
}
set -o functrace
# The last argument becomes $_ again.
trap '__plumbline_keep "$BASH_COMMAND" "$_"' DEBUG
