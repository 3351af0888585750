#!/usr/bin/env bash
# Compiles what only a build with CUDA compiles: cuda_syntax.sh NVCC CXX [OPTION]...
#
# NVCC: a path, or NOTFOUND at its end. CXX and its options: how the engine's sources are compiled.
# The kernels are compiled to code and looked at; of the sources with LibTorch the part that calls
# CUDA is only parsed, as a LibTorch without CUDA cannot be linked with it. 77: no toolchain.
set -euo pipefail

nvcc=$1
shift
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../../../../.." && pwd)"
kernels=worker/engine/quant/cuda_kernels.cu
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$root"

if [ ! -x "$nvcc" ]; then
  echo "cuda_syntax: NOT RUN: no nvcc on this machine (PATH, CUDA_PATH, /usr/local/cuda)."
  echo "cuda_syntax: nothing compiled $kernels, nor what is behind TEQ_WITH_CUDA."
  exit 77
fi

"$nvcc" -std=c++17 --fmad=false -Werror all-warnings -I. -c "$kernels" -o "$work/kernels.o"
"$nvcc" -std=c++17 --fmad=false -I. -ptx "$kernels" -o "$work/kernels.ptx"
grep -q 'div\.rn\.f32' "$work/kernels.ptx"
if grep -n 'fma\.' "$work/kernels.ptx"; then
  echo "cuda_syntax: fused multiply-adds in $kernels: its codes would not be the host's" >&2
  exit 1
fi
echo "cuda_syntax: $kernels compiles ($("$nvcc" --version | grep release))"

headers=/usr/include/c10/cuda
if [ ! -e "$headers/CUDAGuard.h" ]; then
  echo "cuda_syntax: NOT RUN: no $headers; what is behind TEQ_WITH_CUDA was not compiled"
  exit 77
fi
# CUDA's headers lie where this nvcc takes them from, wherever it or a link to it stands.
runtime="$("$nvcc" -M "$kernels" -std=c++17 -I. | grep -o '[^ ]*/cuda_runtime_api\.h' | head -n 1)"
# What a LibTorch with CUDA was configured with.
mkdir -p "$work/c10/cuda/impl"
echo "#define C10_CUDA_BUILD_SHARED_LIBS" >"$work/c10/cuda/impl/cuda_cmake_macros.h"
for source in worker/engine/model/device.cc worker/engine/quant/rounding.cc; do
  "$@" -std=c++20 -fsyntax-only -DTEQ_WITH_CUDA -isystem "$work" \
    -isystem "$(dirname "$runtime")" "$source"
  echo "cuda_syntax: $source compiles with TEQ_WITH_CUDA"
done
