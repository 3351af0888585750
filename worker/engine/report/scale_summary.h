#pragma once

#include "teq/v1/report.pb.h"
#include "worker/engine/model/decoder.h"
#include "worker/engine/teq/scale_groups.h"

namespace teq::report {

/// How far a group's trained scales spread. `log_scale`: float32 [width].
[[nodiscard]] teq::v1::ScaleGroupReport SummarizeScales(const transform::ScaleGroup& group,
                                                        const model::Block& block,
                                                        const torch::Tensor& log_scale);

}  // namespace teq::report
