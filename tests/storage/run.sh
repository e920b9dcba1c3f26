#!/usr/bin/env bash
# Output, tokens, text and weights on object storage: a real S3-compatible server (moto) on loopback, also through a proxy that fails and hangs;
# before that, what servers see and say of secrets (secrets.py).
#   CARGO    how to build with --features s3,http (default: cargo)
#   HESSPEC  a ready binary instead of building
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source launch/tools.sh
need python3 python3

if [[ -z ${HESSPEC:-} ]]; then
    ${CARGO:-cargo} build --features s3,http --bin hesspec
    HESSPEC=${CARGO_TARGET_DIR:-target}/debug/hesspec
fi
python3 tests/storage/secrets.py "$HESSPEC"
need_venv 'moto[server]' pyarrow
"$python" tests/storage/s3.py "$HESSPEC"
