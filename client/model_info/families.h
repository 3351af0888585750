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

/// A model of more than text: its config.json's model_type, and that of the decoder which
/// text_config describes. The model's other parts are published as they are stored.
struct Composite {
  std::string_view model_type;
  std::string_view decoder;
};

/// All composites that are known.
[[nodiscard]] std::span<const Composite> Composites();

}  // namespace teq::model_info
