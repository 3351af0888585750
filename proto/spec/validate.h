#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/spec/recipe.h"
#include "proto/spec/uri.h"
#include "teq/v1/job.pb.h"

namespace teq {

/// `spec` with every unset field that has a default set to it: the recipe's (see
/// RecipeWithDefaults), samples, sequence lengths, seed, formats, device, max_runtime,
/// max_attempts, max_preemptions.
[[nodiscard]] teq::v1::JobSpec WithDefaults(teq::v1::JobSpec spec);

/// Checks a spec with its defaults filled in: required fields, ranges, bits in {2,3,4,8} or
/// target_bits, group_size -1 or a positive multiple of 8, URIs (by ParseUri), patterns that
/// compile, a schedule only where it means something, formats, a limit of memory, evaluation texts
/// and tasks given once, a gate only with an evaluation text.
///
/// INVALID_ARGUMENT, reason INVALID_SPEC, one BadRequest violation per bad field with its path
/// below the spec ("recipe.weights.bits"); all that are wrong, not only the first.
[[nodiscard]] absl::Status ValidateSpec(const teq::v1::JobSpec& spec);

/// Checks labels and priority of a job: at most 64 labels, keys [a-z0-9._/-]{1,63}, values of at
/// most 128 bytes. The same error form.
[[nodiscard]] absl::Status ValidateAttributes(const teq::v1::Job& job);

/// URI_NOT_ALLOWED or INVALID_URI, with the field's path, for any URI of the spec.
[[nodiscard]] absl::Status CheckUris(const teq::v1::JobSpec& spec, const UriPolicy& policy);

/// sha256 of the deterministic serialization, hexadecimal.
[[nodiscard]] std::string Digest(const google::protobuf::Message& message);

}  // namespace teq
