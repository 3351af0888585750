#pragma once

#include <cstdint>

#include "teq/v1/job.pb.h"

/// What a spec's unset fields mean. The comments of recipe.proto and job.proto state the same.
namespace teq::defaults {

inline constexpr teq::v1::Preset kPreset = teq::v1::PRESET_BALANCED;

inline constexpr int kBits = 4;
inline constexpr int kGroupSize = 128;
inline constexpr bool kSymmetric = false;

inline constexpr int kSteps = 200;
inline constexpr int kBatchSize = 4;
inline constexpr double kLearningRate = 0.003;
inline constexpr teq::v1::Objective kObjective = teq::v1::OBJECTIVE_KL;
inline constexpr teq::v1::Initialization kInit = teq::v1::INITIALIZATION_AWQ;
inline constexpr teq::v1::Gradient kGradient = teq::v1::GRADIENT_FULL;
inline constexpr double kHeldBackFraction = 0.125;
inline constexpr teq::v1::BlockInputs kBlockInputs = teq::v1::BLOCK_INPUTS_QUANTIZED;
inline constexpr int kEndToEndSteps = 0;
inline constexpr teq::v1::ComputeType kComputeType = teq::v1::COMPUTE_TYPE_FLOAT32;
inline constexpr double kRedrawnFraction = 0;

inline constexpr double kClippingLearningRate = 0.001;
inline constexpr bool kStartFromSearch = true;

inline constexpr double kDamping = 0.01;
inline constexpr teq::v1::GroupRange kGroupRange = teq::v1::GROUP_RANGE_AFTER_UPDATE;
inline constexpr bool kOrderByActivation = true;

inline constexpr double kRoundingLearningRate = 0.005;
inline constexpr teq::v1::Optimizer kOptimizer = teq::v1::OPTIMIZER_ADAM;

inline constexpr int kSamples = 256;
inline constexpr int kSequenceLength = 256;
inline constexpr std::int64_t kSeed = 1;
inline constexpr int kEvaluationSequenceLength = 256;

inline constexpr teq::v1::Format kFormat = teq::v1::FORMAT_GPTQ;
inline constexpr teq::v1::Device kDevice = teq::v1::DEVICE_ANY;

inline constexpr std::int64_t kMaxRuntimeSeconds = 86'400;
inline constexpr int kMaxAttempts = 3;
inline constexpr int kMaxPreemptions = 20;

}  // namespace teq::defaults
