teq_test(engine_core_test LABEL unit
  SOURCES
    eval/perplexity_test.cc
    model/decoder_test.cc
    model/tiny_decoder.cc
    pack/bit_packing_test.cc
    pack/gptq_test.cc
    quant/fake_quantize_test.cc
    quant/grid_test.cc
    report/scale_summary_test.cc
    teq/fold_test.cc
    teq/start_test.cc
    teq/train_test.cc
  LIBRARIES teq_engine)
target_precompile_headers(engine_core_test PRIVATE <torch/types.h> <gmock/gmock.h> <gtest/gtest.h>)
