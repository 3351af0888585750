# The rooms that share LibTorch's precompiled header.
add_library(teq_engine STATIC
  eval/perplexity.cc
  model/decoder.cc
  model/device.cc
  model/windows_tensor.cc
  pack/bit_packing.cc
  pack/gptq.cc
  pipeline/job_run.cc
  pipeline/run.cc
  quant/cpu_kernels.cc
  quant/fake_quantize.cc
  quant/grid.cc
  quant/scale_gradient.cc
  report/environment.cc
  report/scale_summary.cc
  teq/fold.cc
  teq/scale_groups.cc
  teq/start.cc
  teq/statistics.cc
  teq/train.cc
)
target_link_libraries(teq_engine
  PUBLIC teq_options teq_torch teq_proto teq_spec teq_objects teq_model_info
         teq_checkpoint teq_text teq_verify
  PRIVATE ${CMAKE_DL_LIBS})
target_precompile_headers(teq_engine PRIVATE <torch/types.h> <torch/autograd.h>)
# Vector code that rounds alike on every instruction set; see the file's head.
set_source_files_properties(quant/cpu_kernels.cc PROPERTIES
  SKIP_PRECOMPILE_HEADERS ON
  COMPILE_OPTIONS "-O3;-fopenmp-simd;-ffp-contract=off;-fno-math-errno;-fno-trapping-math;-fno-signed-zeros")
