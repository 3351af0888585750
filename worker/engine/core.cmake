# The rooms that share LibTorch's precompiled header.
add_library(teq_engine STATIC
  eval/perplexity.cc
  eval/tasks.cc
  model/attention.cc
  model/attention_kernels.cc
  model/block_runner.cc
  model/decoder.cc
  model/device.cc
  model/draw_tokens.cc
  model/head_loss.cc
  model/host_memory.cc
  model/hpu_loader.cc
  model/linear_product.cc
  model/positions.cc
  model/scratch.cc
  model/softmax_kernels.cc
  model/threads.cc
  model/window_states.cc
  model/windows_tensor.cc
  pack/awq.cc
  pack/bit_packing.cc
  pack/checkpoint_directory.cc
  pack/compressed_tensors.cc
  pack/dequantized.cc
  pack/gguf.cc
  pack/gguf_blocks.cc
  pack/gguf_container.cc
  pack/gguf_metadata.cc
  pack/gguf_tensors.cc
  pack/gguf_vocabulary.cc
  pack/gptq.cc
  pack/model_card.cc
  pack/module_sets.cc
  pack/packing_kernels.cc
  pipeline/block_rounder.cc
  pipeline/disk_room.cc
  pipeline/job_run.cc
  pipeline/job_run_measure.cc
  pipeline/job_run_quantize.cc
  pipeline/output_formats.cc
  pipeline/run.cc
  pipeline/weights_digest.cc
  quant/bit_choice.cc
  quant/clip_search.cc
  quant/cpu_kernels.cc
  quant/fake_quantize.cc
  quant/gptq.cc
  quant/grid.cc
  quant/rounding.cc
  report/axis.cc
  report/code_section.cc
  report/environment.cc
  report/error_section.cc
  report/head_section.cc
  report/heat_map.cc
  report/html.cc
  report/layer_grid.cc
  report/page.cc
  report/page_style.cc
  report/plot.cc
  report/quality_section.cc
  report/run_section.cc
  report/scale_section.cc
  report/scale_summary.cc
  report/training_section.cc
  report/transform_section.cc
  speed/calibrate_devices.cc
  teq/fit.cc
  teq/fold.cc
  teq/parameters.cc
  teq/redraw.cc
  teq/scale_groups.cc
  teq/sensitivity.cc
  teq/start.cc
  teq/statistics.cc
  teq/train_blocks.cc
  teq/train_end_to_end.cc
  teq/training_parts.cc
)
target_link_libraries(teq_engine
  PUBLIC teq_options teq_torch teq_proto teq_spec teq_objects teq_cache teq_model_info
         teq_checkpoint teq_text teq_verify
  PRIVATE ${CMAKE_DL_LIBS})
target_precompile_headers(teq_engine REUSE_FROM teq_checkpoint)
# Vector code that rounds alike on every instruction set; see the file's head.
set_source_files_properties(quant/cpu_kernels.cc PROPERTIES
  SKIP_PRECOMPILE_HEADERS ON
  COMPILE_OPTIONS "-O3;-fopenmp-simd;-ffp-contract=off;-fno-math-errno;-fno-trapping-math;-fno-signed-zeros")
set_source_files_properties(
  model/attention_kernels.cc model/softmax_kernels.cc pack/packing_kernels.cc PROPERTIES
  SKIP_PRECOMPILE_HEADERS ON
  COMPILE_OPTIONS "-O3;-fopenmp-simd;-fno-math-errno;-fno-trapping-math;-fno-signed-zeros")
