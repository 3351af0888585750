#pragma once

#include "client/model_info/model_config.h"
#include "client/model_info/plan.h"
#include "proto/spec/validate.h"
#include "teq/v1/job.pb.h"

namespace teq::model_info {

/// A model whose figures can be followed by hand. Of a block: 4 * 64^2 + 3 * 64 * 128 = 40960
/// weights in layers and 2 * 64 in norms, and inputs of 64, 64, 64 and 128.
inline ModelConfig TinyConfig() {
  return ParseModelConfig({{"model_type", "llama"},
                           {"hidden_size", 64},
                           {"intermediate_size", 128},
                           {"num_hidden_layers", 2},
                           {"num_attention_heads", 4},
                           {"vocab_size", 512},
                           {"max_position_embeddings", 512},
                           {"tie_word_embeddings", true}},
                          "config.json")
      .value();
}

inline ModelConfig Llama7B() {
  return ParseModelConfig({{"model_type", "llama"},
                           {"hidden_size", 4096},
                           {"intermediate_size", 11008},
                           {"num_hidden_layers", 32},
                           {"num_attention_heads", 32},
                           {"vocab_size", 32000},
                           {"max_position_embeddings", 4096},
                           {"tie_word_embeddings", false}},
                          "config.json")
      .value();
}

/// 16 windows of 32 tokens, two in a step; scales from ones, clip factors and offsets are trained
/// block by block.
inline teq::v1::JobSpec TinySpec() {
  teq::v1::JobSpec spec;
  spec.mutable_calibration()->set_samples(16);
  spec.mutable_calibration()->set_sequence_length(32);
  spec.mutable_evaluation()->set_sequence_length(32);
  teq::v1::Recipe& recipe = *spec.mutable_recipe();
  recipe.mutable_weights()->set_group_size(32);
  teq::v1::Teq& teq = *recipe.mutable_transform()->mutable_teq();
  teq.set_objective(teq::v1::OBJECTIVE_BLOCK_MSE);
  teq.set_init(teq::v1::INITIALIZATION_ONES);
  teq.set_batch_size(2);
  recipe.mutable_clipping()->mutable_learned()->set_start_from_search(false);
  recipe.mutable_rounding()->mutable_learned();
  return WithDefaults(spec);
}

}  // namespace teq::model_info
