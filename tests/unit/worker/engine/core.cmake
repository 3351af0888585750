# Shared objects in the place of a Gaudi's plugin: one that works, and one for each mistake.
function(teq_hpu_stand_in NAME)
  add_library(hpu_${NAME} MODULE model/hpu_stand_in.c)
  target_include_directories(hpu_${NAME} PRIVATE ${CMAKE_SOURCE_DIR})
  target_compile_options(hpu_${NAME} PRIVATE -Wall -Wextra -Wpedantic -Werror)
  target_compile_definitions(hpu_${NAME} PRIVATE ${ARGN})
endfunction()
set(HPU_STAND_INS stand_in newer no_symbol no_device no_backend unknown_type)
teq_hpu_stand_in(stand_in)
teq_hpu_stand_in(newer STAND_IN_VERSION=2)
teq_hpu_stand_in(no_symbol teq_hpu_plugin_get=another_name)
teq_hpu_stand_in(no_device STAND_IN_DEVICES=0)
teq_hpu_stand_in(no_backend STAND_IN_TYPE="hpu")
teq_hpu_stand_in(unknown_type STAND_IN_TYPE="xpu")

# A program that loads them.
function(teq_loads_hpu_stand_ins NAME)
  target_compile_definitions(${NAME} PRIVATE TEQ_HPU_STAND_INS="${CMAKE_CURRENT_BINARY_DIR}")
  target_link_libraries(${NAME} PRIVATE ${CMAKE_DL_LIBS})
  foreach(STAND_IN ${HPU_STAND_INS})
    add_dependencies(${NAME} hpu_${STAND_IN})
  endforeach()
endfunction()

teq_test(engine_core_test LABEL unit HEADERS teq_engine_test_headers
  SOURCES
    eval/perplexity_test.cc
    eval/tasks_test.cc
    model/attention_test.cc
    model/decoder_test.cc
    model/device_test.cc
    model/draw_tokens_test.cc
    model/families_test.cc
    model/family_case.cc
    model/head_loss_test.cc
    model/linear_product_test.cc
    model/scratch_test.cc
    model/threads_test.cc
    model/tiny_decoder.cc
    pack/awq_test.cc
    pack/bit_packing_test.cc
    pack/checkpoint_directory_test.cc
    pack/compressed_tensors_test.cc
    pack/gguf_blocks_test.cc
    pack/gguf_test.cc
    pack/gptq_test.cc
    pack/model_card_test.cc
    pack/tiny_packable.cc
    pipeline/block_rounder_test.cc
    pipeline/disk_room_test.cc
    pipeline/weights_digest_test.cc
    quant/bit_choice_test.cc
    quant/clip_search_test.cc
    quant/fake_quantize_test.cc
    quant/gptq_rounding_test.cc
    quant/grid_test.cc
    quant/group_kernels_test.cc
    report/layer_grid_test.cc
    report/page_test.cc
    report/plot_test.cc
    report/scale_summary_test.cc
    teq/fold_test.cc
    teq/redraw_test.cc
    teq/sensitivity_test.cc
    teq/start_test.cc
    teq/train_test.cc
  LIBRARIES teq_engine)
teq_loads_hpu_stand_ins(engine_core_test)
set_source_files_properties(quant/group_kernels_test.cc PROPERTIES COMPILE_OPTIONS -ffp-contract=off)

# Every family through the whole pipeline.
teq_test(families_run_test LABEL integration HEADERS teq_engine_test_headers
  SOURCES
    model/family_case.cc
    pipeline/families_run_test.cc
  LIBRARIES teq_engine)
teq_loads_hpu_stand_ins(families_run_test)

# CUDA's sources, wherever there is nvcc; ctest tells where there is none. A build with CUDA compiles
# them anyway.
find_program(TEQ_NVCC nvcc HINTS ENV CUDA_PATH PATHS /usr/local/cuda PATH_SUFFIXES bin)
add_test(NAME cuda_syntax COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/quant/cuda_syntax.sh ${TEQ_NVCC} ${CMAKE_CXX_COMPILER}
  -DTEQ_VERSION="${PROJECT_VERSION}" -Wall -Wextra -Wpedantic -Wshadow -Wno-missing-field-initializers -Werror
  -I${CMAKE_SOURCE_DIR} -isystem ${CMAKE_BINARY_DIR}/proto/gen
  "-idirafter$<JOIN:$<TARGET_PROPERTY:teq_torch,INTERFACE_INCLUDE_DIRECTORIES>,;-idirafter>" COMMAND_EXPAND_LISTS)
set_tests_properties(cuda_syntax PROPERTIES LABELS unit TIMEOUT 300 SKIP_RETURN_CODE 77)
