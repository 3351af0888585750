teq_test(engine_core_test LABEL unit HEADERS teq_engine_test_headers
  SOURCES
    eval/perplexity_test.cc
    eval/tasks_test.cc
    model/attention_test.cc
    model/decoder_test.cc
    model/families_test.cc
    model/family_case.cc
    model/head_loss_test.cc
    model/linear_product_test.cc
    model/scratch_test.cc
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
    quant/bit_choice_test.cc
    quant/clip_search_test.cc
    quant/fake_quantize_test.cc
    quant/gptq_rounding_test.cc
    quant/grid_test.cc
    report/layer_grid_test.cc
    report/page_test.cc
    report/plot_test.cc
    report/scale_summary_test.cc
    teq/fold_test.cc
    teq/sensitivity_test.cc
    teq/start_test.cc
    teq/train_test.cc
  LIBRARIES teq_engine)

# Every family through the whole pipeline.
teq_test(families_run_test LABEL integration HEADERS teq_engine_test_headers
  SOURCES
    model/family_case.cc
    pipeline/families_run_test.cc
  LIBRARIES teq_engine)
