#!/usr/bin/env bash
# Writes the demo model's texts, from Debian's package bible-kjv: demo_text.sh DIRECTORY
# kjv_eval.txt is the seven books that the model was not trained on; kjv_calibration.txt is three of
# those that it was. One verse a line.
set -euo pipefail

directory="${1:?usage: demo_text.sh DIRECTORY}"

verses() {
  local range
  for range in "$@"; do
    bible -f "$range" | sed 's/^[^ ]* //'
  done
}

# write FILE RANGE...: a whole file or none.
write() {
  local file="$1"
  shift
  if [ ! -s "$file" ]; then
    verses "$@" >"$file.part"
    mv "$file.part" "$file"
  fi
}

mkdir -p "$directory"
write "$directory/kjv_calibration.txt" Genesis1:1-50:26 Isaiah1:1-66:24 Luke1:1-24:53
write "$directory/kjv_eval.txt" Ruth1:1-4:22 Esther1:1-10:3 Ecclesiastes1:1-12:14 Jonah1:1-4:11 \
  Philippians1:1-4:23 James1:1-5:20 Revelation1:1-22:21
