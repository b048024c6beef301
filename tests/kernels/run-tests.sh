#!/usr/bin/env bash
# In a machine of machine.sh: runs pytest with the packages of the shared .venv.
# usage: run-tests.sh [ARGUMENT...]
set -euo pipefail
shared=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
packages=$(echo "$shared"/.venv/lib/python3.*/site-packages)
environment=/tmp/environment

python3 -m venv --without-pip "$environment"
printf '%s\n' "$shared" "$shared/proto" "$packages" >"$(echo "$environment"/lib/python3.*/site-packages)/shared.pth"
for name in kernel-collector reducer ebpf-net; do
  { echo "#!$environment/bin/python"; tail -n +2 "$shared/.venv/bin/$name"; } >"$environment/bin/$name"
  chmod +x "$environment/bin/$name"
done
cd "$shared"
export PYTHONDONTWRITEBYTECODE=1
echo "Linux $(uname -r)"
exec "$environment/bin/python" -m pytest --basetemp /tmp/tests -p no:cacheprovider "$@"
