# What a LibTorch with CUDA brings: names and memory of GPUs, and the kernels of fake quantization.
# Without it no GPU is found.
if(NOT TARGET torch_cuda)
  return()
endif()
include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  message(FATAL_ERROR "This LibTorch has CUDA, which needs nvcc, and none was found: name one in "
    "CMAKE_CUDA_COMPILER, or a LibTorch without CUDA in Torch_DIR")
endif()
# LibTorch's configuration turns the user's value off.
set(CMAKE_CUDA_ARCHITECTURES ${TEQ_ASKED_CUDA_ARCHITECTURES})
if(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES all-major)
endif()
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)

# Contraction is off, as for the host's kernels.
add_library(teq_cuda_kernels STATIC quant/cuda_kernels.cu)
target_include_directories(teq_cuda_kernels PRIVATE ${CMAKE_SOURCE_DIR})
target_compile_options(teq_cuda_kernels PRIVATE --fmad=false)
set_target_properties(teq_cuda_kernels PROPERTIES CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON)
target_compile_definitions(teq_engine PRIVATE TEQ_WITH_CUDA)
target_link_libraries(teq_engine PRIVATE teq_cuda_kernels CUDA::cudart)
