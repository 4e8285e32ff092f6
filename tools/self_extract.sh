#!/bin/sh
# dmu @VERSION@ in one file: this script, the program and the runtime, both compressed. The first start
# unpacks them into a folder that only this user can read or write; later starts run them from there.
# No command is looked up through PATH, and nothing is run that does not have the hash below.
# All variables but dmu_folder live in a subshell: the program gets the environment as it was.
dmu_folder=$(
  set -u
  IFS=' '
  LC_ALL=C
  export LC_ALL
  umask 077
  self=$0
  runtime_name=deno-@RUNTIME_HASH@
  program_name=dmu-@PROGRAM_HASH@.js

  fail() {
    echo "dmu: $1" >&2
    exit 1
  }
  for name in chmod gzip head id mkdir mktemp mv rm sha256sum stat tail; do
    if [ -x "/usr/bin/$name" ]; then place=/usr/bin
    elif [ -x "/bin/$name" ]; then place=/bin
    else fail "Cannot unpack: there is no /usr/bin/$name and no /bin/$name"
    fi
    eval "$name=$place/$name"
  done
  user=$($id -u) || fail "Cannot unpack: cannot tell which user this is"
  [ -r "$self" ] || fail "Cannot unpack: cannot read $self, start it by its path"

  # True if the folder exists or could be made, and is this user's alone.
  is_safe() {
    [ -e "$1" ] || [ -L "$1" ] || $mkdir -p -m 700 "$1" 2>/dev/null
    if [ ! -d "$1" ] || [ -L "$1" ]; then problem="cannot be made"
    elif [ "$($stat -c '%u %a' "$1")" != "$user 700" ]; then
      problem="is not a folder of mode 700 that belongs to user $user"
    elif [ ! -w "$1" ]; then problem="cannot be written to"
    else return 0
    fi
    return 1
  }

  # What changes whenever one of the files is written to, replaced or given away.
  marks_now() {
    $stat -c '%u %a %d:%i %s %y %z' "$1/$program_name" "$1/$runtime_name" 2>/dev/null
  }
  is_unchanged() {
    marks=$1/marks-@MARK@
    [ -f "$marks" ] && [ ! -L "$marks" ] && [ -x "$1/$runtime_name" ] &&
      [ "$($head -c 4096 "$marks")" = "$(marks_now "$1")" ]
  }

  has_hash() {
    [ -f "$1" ] && [ ! -L "$1" ] && [ "$($sha256sum <"$1")" = "$2  -" ]
  }

  # $1 the folder, $2 the name, $3 the hash, $4 the first byte here, $5 the length here
  unpack() {
    has_hash "$1/$2" "$3" && return 0
    new=$($mktemp "$1/new.XXXXXX") || return 1
    trap '$rm -f "$new"' EXIT
    trap 'exit 1' HUP INT TERM
    $tail -c "+$4" "$self" | $head -c "$5" | $gzip -dc >"$new" && has_hash "$new" "$3" &&
      $chmod 700 "$new" && $mv -f "$new" "$1/$2"
    result=$?
    $rm -f "$new"
    trap - EXIT HUP INT TERM
    return $result
  }

  is_ready() {
    is_safe "$1" || return 1
    is_unchanged "$1" && return 0
    problem="has no room, or $self is damaged"
    unpack "$1" "$program_name" @PROGRAM_HASH@ @PROGRAM_START@ @PROGRAM_LENGTH@ || return 1
    unpack "$1" "$runtime_name" @RUNTIME_HASH@ @RUNTIME_START@ @RUNTIME_LENGTH@ || return 1
    problem="is on a file system where programs may not be run"
    [ -x "$1/$runtime_name" ] || return 1
    new=$($mktemp "$1/new.XXXXXX") && marks_now "$1" >"$new" && $mv -f "$new" "$1/marks-@MARK@"
    return 0
  }

  # A home that is not there (/nonexistent, of system users) is not made.
  home=${HOME-}
  [ -d "$home" ] || home=
  problems=
  for place in "${XDG_CACHE_HOME-}" "${home:+$home/.cache}" /var/tmp /tmp; do
    case $place in
      /var/tmp | /tmp) folder=$place/dmu-$user ;;
      /*) folder=$place/dmu ;;
      *) continue ;;
    esac
    if is_ready "$folder"; then
      printf %s "$folder"
      exit 0
    fi
    problems="$problems
  $folder $problem"
  done
  fail "Cannot unpack, set XDG_CACHE_HOME to a folder of your own:$problems"
) || exit 1
# What becomes another program (dmu onexit exec) gives that the environment as it was.
DMU_OUTER_DENO_DIR=${DENO_DIR-}
DMU_OUTER_DENO_NO_UPDATE_CHECK=${DENO_NO_UPDATE_CHECK-}
DENO_DIR=$dmu_folder/state
DENO_NO_UPDATE_CHECK=1
export DENO_DIR DENO_NO_UPDATE_CHECK DMU_OUTER_DENO_DIR DMU_OUTER_DENO_NO_UPDATE_CHECK
exec "$dmu_folder/deno-@RUNTIME_HASH@" run --allow-all --quiet --no-config --no-lock --no-npm \
  --no-remote "$dmu_folder/dmu-@PROGRAM_HASH@.js" "$@"
exit 1
