#!/usr/bin/env bash
# Asks before something that cannot be undone: confirm.sh "$(CONFIRM)" "remove ...". Succeeds only on a yes.
set -euo pipefail
if [[ $1 == yes ]]; then
    exit
fi
if [[ ! -t 0 ]]; then
    echo "This would $2. Nobody is there to ask: say CONFIRM=yes." >&2
    exit 1
fi
read -r -p "This will $2. Type yes to go ahead: " answer
if [[ $answer != yes ]]; then
    echo "Nothing was changed." >&2
    exit 1
fi
