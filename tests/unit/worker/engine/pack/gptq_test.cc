#include "worker/engine/pack/gptq.h"

#include <gmock/gmock.h>

#include <array>
#include <regex>
#include <tuple>

#include "fmt/format.h"
#include "tests/unit/worker/engine/pack/tiny_packable.h"

namespace teq::pack {
namespace {

using torch::Tensor;

TEST(GptqTensorsTest, StoresZeroPointsLessOneAlongTheOutputs) {
  quant::Quantized quantized;
  quantized.bits = 4;
  quantized.codes = torch::zeros({8, 8}, torch::kUInt8);
  quantized.scales = torch::ones({8, 1}, torch::kFloat16);
  quantized.zeros =
      torch::tensor({5, 1, 1, 8, 15, 7, 3, 12}, torch::kInt32).to(torch::kUInt8).unsqueeze(1);
  const auto tensors = GptqTensors("layer", quantized);
  ASSERT_EQ(tensors[1].first, "layer.qzeros");
  // Nibbles from the lowest: 4 0 0 7 14 6 2 11.
  EXPECT_EQ(static_cast<std::uint32_t>(tensors[1].second.item<int>()), 0xb26e7004U);
}

TEST(GptqTensorsTest, HasTheShapesAndNamesThatLoadersExpect) {
  torch::manual_seed(1);
  const auto tensors =
      GptqTensors("m", quant::QuantizeToNearest(torch::randn({32, 64}), {true, 3, 32, false}));
  ASSERT_EQ(tensors.size(), 4U);
  EXPECT_EQ(tensors[0].first, "m.qweight");
  EXPECT_EQ(tensors[0].second.sizes(), (std::vector<std::int64_t>{6, 32}));
  EXPECT_EQ(tensors[1].second.sizes(), (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(tensors[2].first, "m.scales");
  EXPECT_EQ(tensors[2].second.sizes(), (std::vector<std::int64_t>{2, 32}));
  EXPECT_EQ(tensors[2].second.scalar_type(), torch::kFloat16);
  EXPECT_EQ(tensors[3].first, "m.g_idx");
  EXPECT_EQ(tensors[3].second[31].item<int>(), 0);
  EXPECT_EQ(tensors[3].second[32].item<int>(), 1);
}

TEST(GptqTensorsTest, SymmetricFourBitZeroPointsAreSevens) {
  torch::manual_seed(1);
  const auto tensors =
      GptqTensors("m", quant::QuantizeToNearest(torch::randn({8, 32}), {true, 4, 32, true}));
  EXPECT_EQ(static_cast<std::uint32_t>(tensors[1].second.item<int>()), 0x77777777U);
}

model_info::PlannedLayer Planned(const std::string& name, const LayerGrid& grid) {
  return {{.name = name, .role = model_info::Role::kDown, .in = 64, .out = 64}, grid};
}

TEST(GptqConfigTest, OtherGridsAndFloatLayersBecomeDynamicRules) {
  PackableModel model;
  model.config.prefix = "a.";
  model.plan = {Planned("a.0.q", {true, 4, 32, false}), Planned("a.0.k", {true, 4, 32, false}),
                Planned("a.0.v", {true, 8, 64, true}), Planned("a.0.o", {false, 4, 32, false})};
  const nlohmann::ordered_json config = GptqConfig(model);
  EXPECT_EQ(config["quant_method"], "gptq");
  EXPECT_EQ(config["bits"], 4);
  EXPECT_EQ(config["group_size"], 32);
  EXPECT_EQ(config["sym"], false);
  EXPECT_EQ(config["desc_act"], false);
  EXPECT_EQ(config["checkpoint_format"], "gptq");
  EXPECT_EQ(config["dynamic"].dump(),
            R"({"+:^a\\.0\\.v$":{"bits":8,"group_size":64,"sym":true},"-:^a\\.0\\.o$":{}})");
}

/// The start of the rule that decides about a module: "+:", "-:", or "" for none.
std::string RuleOf(const nlohmann::ordered_json& rules, const std::string& module) {
  for (const auto& [rule, settings] : rules.items()) {
    if (std::regex_match(module, std::regex(rule.substr(2)))) return rule.substr(0, 2);
  }
  return "";
}

// Rules are asked in order: the tower's comes before those of layers that are called alike.
TEST(GptqConfigTest, OtherPartsOfALargerModelStayFloatUnderAllNamesOfLoaders) {
  PackableModel model;
  model.config.is_part = true;
  model.config.prefix = "language_model.model.";
  model.config.head_prefix = "language_model.";
  model.config.names.head = "lm_head";
  model.other_parts = {"vision_tower"};
  model.plan = {Planned("language_model.model.layers.1.q", {true, 4, 32, false}),
                Planned("language_model.model.layers.1.k", {true, 4, 32, false}),
                Planned("language_model.model.layers.1.o", {false, 4, 32, false})};
  const nlohmann::ordered_json rules = GptqConfig(model)["dynamic"];
  EXPECT_EQ(rules.begin().key(), R"(-:^(?:.*\.)?vision_tower(?:\..*)?$)");
  EXPECT_EQ(RuleOf(rules, "vision_tower.encoder.layers.1.o"), "-:");
  EXPECT_EQ(RuleOf(rules, "model.vision_tower.encoder.layers.1.q"), "-:");
  EXPECT_EQ(RuleOf(rules, "language_model.model.layers.1.o"), "-:");
  EXPECT_EQ(RuleOf(rules, "model.language_model.layers.1.o"), "-:");
  EXPECT_EQ(RuleOf(rules, "model.language_model.layers.1.q"), "");
  EXPECT_EQ(RuleOf(rules, "model.language_model.layers.11.o"), "");
}

// vLLM asks for the names of what it loads, which hold several layers.
TEST(GptqConfigTest, RulesHoldForWhatServersLoadAsOne) {
  using model_info::Role;
  const auto planned = [](const std::string& name, Role role, int bits, int expert = -1) {
    return model_info::PlannedLayer{
        {.name = name, .role = role, .expert = expert, .in = 64, .out = 64},
        {bits > 0, bits, 32, false}};
  };
  PackableModel model;
  model.config.prefix = "model.";
  const std::string block = "model.layers.0.";
  model.plan = {planned(block + "self_attn.q_proj", Role::kQuery, 8),
                planned(block + "self_attn.k_proj", Role::kKey, 8),
                planned(block + "self_attn.v_proj", Role::kValue, 8),
                planned(block + "mlp.gate_proj", Role::kGate, 0),
                planned(block + "mlp.up_proj", Role::kUp, 0),
                planned(block + "mlp.experts.0.w1", Role::kGate, 3, 0),
                planned("model.layers.1.attention.query_key_value", Role::kQueryKeyValue, 8)};
  for (int i = 0; i < 9; ++i) {
    model.plan.push_back(planned(fmt::format("model.layers.1.a{}", i), Role::kDown, 4));
  }
  const nlohmann::ordered_json rules = GptqConfig(model)["dynamic"];
  for (const char* name : {"q_proj", "k_proj", "v_proj", "qkv_proj"}) {
    EXPECT_EQ(RuleOf(rules, block + "self_attn." + name), "+:") << name;
  }
  for (const char* name : {"gate_proj", "up_proj", "gate_up_proj"}) {
    EXPECT_EQ(RuleOf(rules, block + "mlp." + name), "-:") << name;
  }
  EXPECT_EQ(RuleOf(rules, block + "mlp.experts.0.w1"), "+:");
  EXPECT_EQ(RuleOf(rules, block + "mlp.experts"), "+:");
  EXPECT_EQ(RuleOf(rules, block + "mlp.experts.1.w1"), "");
  EXPECT_EQ(RuleOf(rules, "model.layers.1.attention.query_key_value"), "+:");
  EXPECT_EQ(RuleOf(rules, "model.layers.1.attention.qkv_proj"), "");
}

/// bits, group_size and sym of a layer; all zero where it is float.
using Setting = std::tuple<int, int, bool>;

Setting SettingOf(const LayerGrid& grid) {
  return grid.quantized ? Setting(grid.bits, grid.group_size, grid.symmetric) : Setting();
}

/// What GPTQModel and vLLM read from a configuration: the first rule decides whose expression
/// matches from the module's name's start, as Python's re.match has it.
class Loader {
 public:
  explicit Loader(const nlohmann::ordered_json& config) : general_(Read(config)) {
    for (const auto& [rule, settings] : config["dynamic"].items()) {
      rules_.emplace_back(std::regex(rule.substr(2)),
                          rule.starts_with("-:") ? Setting() : Read(settings));
    }
  }

  [[nodiscard]] Setting Of(const std::string& module) const {
    for (const auto& [expression, setting] : rules_) {
      if (std::regex_search(module, expression, std::regex_constants::match_continuous)) {
        return setting;
      }
    }
    return general_;
  }

  [[nodiscard]] std::size_t rules() const { return rules_.size(); }

 private:
  static Setting Read(const nlohmann::ordered_json& settings) {
    return {settings["bits"].get<int>(), settings["group_size"].get<int>(),
            settings["sym"].get<bool>()};
  }

  Setting general_;
  std::vector<std::pair<std::regex, Setting>> rules_;
};

void ExpectEveryLayersOwnSetting(const PackableModel& model, const std::string& prefix = "") {
  const Loader loader(GptqConfig(model));
  for (const model_info::PlannedLayer& planned : model.plan) {
    EXPECT_EQ(loader.Of(prefix + planned.layer.name), SettingOf(planned.grid))
        << prefix << planned.layer.name;
  }
}

/// As a checkpoint of the family's base model is, which loaders read with the prefix.
void DropPrefix(PackableModel& model) {
  for (model_info::PlannedLayer& planned : model.plan) {
    planned.layer.name.erase(0, model.config.prefix.size());
  }
  model.config.prefix.clear();
}

// Loaders try all rules for each layer, and Python compiles them anew where they are more than 512.
TEST(GptqConfigTest, ABlocksExpertsThatAreAlikeAreOneRule) {
  PackableModel model = TinyMixture({true, 4, 32, false});
  constexpr std::array<int, 4> kBits = {4, 2, 8, 3};
  for (model_info::PlannedLayer& planned : model.plan) {
    if (planned.layer.expert < 0) continue;
    planned.grid.bits = kBits[static_cast<std::size_t>(planned.layer.block) % kBits.size()];
  }
  const nlohmann::ordered_json config = GptqConfig(model);
  EXPECT_TRUE(config["dynamic"].contains(
      R"(+:^model\.layers\.1\.mlp\.experts(?:\.\d+\.(?:gate_proj|up_proj|down_proj))?$)"));
  EXPECT_TRUE(
      config["dynamic"].contains(R"(-:^model\.layers\.0\.mlp\.(?:gate|shared_expert_gate)$)"));
  // A block's gates are float; the experts of three blocks have the general grid.
  const Loader loader(config);
  EXPECT_EQ(loader.rules(), 12U + 9U);
  ExpectEveryLayersOwnSetting(model);
  // vLLM asks for a block's experts by this name.
  EXPECT_EQ(loader.Of("model.layers.0.mlp.experts"), Setting(4, 32, false));
  EXPECT_EQ(loader.Of("model.layers.1.mlp.experts"), Setting(2, 32, false));
  EXPECT_EQ(loader.Of("model.layers.11.mlp.experts"), Setting(3, 32, false));
  DropPrefix(model);
  ExpectEveryLayersOwnSetting(model, "model.");
}

TEST(GptqConfigTest, ExpertsThatDifferEachHaveTheirOwnSetting) {
  PackableModel model = TinyMixture({true, 4, 32, false});
  const auto regrid = [&](int block, const std::string& layers, const LayerGrid& grid) {
    RegridWhere(model, fmt::format(R"(model\.layers\.{}\.mlp\.experts\.{})", block, layers), grid);
  };
  regrid(1, R"((1|11)\.down_proj)", {true, 8, 32, false});
  regrid(2, R"([0-5]\..*)", {true, 3, -1, false});
  regrid(3, R"(10\..*)", {.quantized = false});
  regrid(4, R"(\d*[02468]\.up_proj)", {true, 2, 32, false});
  regrid(4, R"(\d*[13579]\.up_proj)", {true, 8, 32, true});
  regrid(11, R"(\d+\.gate_proj)", {true, 8, -1, true});
  // One for each, two for the fourth block's, and each block's gates.
  EXPECT_EQ(Loader(GptqConfig(model)).rules(), 6U + 12U);
  ExpectEveryLayersOwnSetting(model);
  DropPrefix(model);
  ExpectEveryLayersOwnSetting(model, "model.");
}

TEST(GptqConfigTest, TransformersIsToldWhatIsRoundedInEveryBlock) {
  PackableModel model;
  const LayerGrid grid = {true, 4, 32, false};
  const auto at = [](int block, const std::string& name, const LayerGrid& of) {
    model_info::PlannedLayer planned = Planned(fmt::format("layers.{}.{}", block, name), of);
    planned.layer.block = block;
    return planned;
  };
  model.plan = {at(0, "q", grid), at(0, "o", {.quantized = false}), at(1, "q", grid),
                at(1, "o", {.quantized = false})};
  EXPECT_EQ(GptqConfig(model)["modules_in_block_to_quantize"].dump(), R"([["q"]])");
  model.plan.back() = at(1, "o", grid);
  EXPECT_FALSE(GptqConfig(model).contains("modules_in_block_to_quantize"));
  model.plan[1] = at(0, "o", grid);
  EXPECT_FALSE(GptqConfig(model).contains("modules_in_block_to_quantize"));
}

}  // namespace
}  // namespace teq::pack
