#!/bin/sh
# make_real_sample.sh - record the sample trace of a real model: builds libkvcap with HDF5
# alone, runs the transformers shim over prompt.txt, greedy, and leaves the trace in a folder.
#
#   make_real_sample.sh MODEL_DIR GGUF_FILE [OUT_DIR]
#
# MODEL_DIR holds GGUF_FILE. OUT_DIR: default $OUT, else the current folder. Environment:
# PYTHON (python3 with torch, transformers, gguf), DEVICE (cuda), DTYPE (bf16), N_NEW (129),
# BUILD (a folder for the build). Needs cmake, a C compiler and the HDF5 headers.
set -eu

[ $# -ge 2 ] || { sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
model=$1
gguf=$2
out=${3:-${OUT:-.}}
build=${BUILD:-$(mktemp -d)}
python=${PYTHON:-python3}
mkdir -p "$out"
[ -f "$model/$gguf" ] || { echo "make_real_sample.sh: $model/$gguf is not there" >&2; exit 2; }

cmake -S "$root" -B "$build" -DKVT_CAPTURE_ONLY=ON -DCMAKE_BUILD_TYPE=Release >"$build.log" 2>&1 &&
    cmake --build "$build" -j >>"$build.log" 2>&1 || { tail -n 30 "$build.log" >&2; exit 4; }

# The same kernels and the same work spaces in every run.
export CUBLAS_WORKSPACE_CONFIG=:4096:8 PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
n_new=${N_NEW:-129}
"$python" "$root/capture/python/kvcap_hf.py" --library "$build/capture/libkvcap.so" \
    --model "$model" --gguf "$gguf" --dtype "${DTYPE:-bf16}" --device "${DEVICE:-cuda}" \
    --prompt-file "$here/prompt.txt" --spans "$here/prompt_spans.json" \
    --max-new-tokens "$n_new" --min-new-tokens "$n_new" --window 128 --text --seed 0 \
    --note "model_name=SmolLM2-135M-Instruct" --note "license_note=model Apache-2.0; prompt written for kvtrace" \
    --note "corpus=kvtrace sample prompt" --cluster-id kvtrace-sample-prompt --sample-id real_smollm2 \
    --out "$out/real_smollm2.h5" --print-text
ls -l "$out/real_smollm2.h5"
sha256sum "$out/real_smollm2.h5"
