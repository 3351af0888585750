#pragma once

#include <span>
#include <string_view>

#include "client/model_info/config_reader.h"
#include "client/model_info/model_config.h"

namespace teq::model_info {

/// A family of decoders: config.json's model_type, and the table that describes a model of it. What
/// a table does not read, it does not know, and the reader refuses it.
struct Family {
  std::string_view model_type;
  ModelConfig (*describe)(ConfigReader& config);
};

/// All families that are known.
[[nodiscard]] std::span<const Family> Families();

}  // namespace teq::model_info
