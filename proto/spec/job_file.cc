#include "proto/spec/job_file.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "fmt/format.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/duration.pb.h"
#include "google/protobuf/timestamp.pb.h"
#include "nlohmann/json.hpp"
#include "proto/spec/error.h"
#include "proto/spec/json.h"
#include "proto/spec/resource_name.h"
#include "proto/spec/utf8.h"
#include "proto/spec/yaml.h"

namespace teq {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::rpc::BadRequest;
using Json = nlohmann::ordered_json;

constexpr std::size_t kMaxBytes = 1'048'576;
// Aliases can make a small file large, even endless; no job file is near these.
constexpr int kMaxNodes = 100'000;
constexpr int kMaxDepth = 32;

constexpr std::string_view kReason = "INVALID_JOB_FILE";
constexpr std::string_view kProject = "project";

// One thing that is wrong, and where.
struct Problem {
  int line = 0;  // 0: not known
  std::string path;
  std::string description;
};

absl::Status MakeError(std::string_view file, std::vector<Problem> problems) {
  std::ranges::stable_sort(problems, {}, &Problem::line);
  std::string message;
  BadRequest request;
  for (const Problem& problem : problems) {
    if (!message.empty()) message += "; ";
    message += file;
    if (problem.line > 0) message += fmt::format(":{}", problem.line);
    if (!problem.path.empty()) message += fmt::format(": {}", problem.path);
    message += fmt::format(": {}", problem.description);
    auto* violation = request.add_field_violations();
    violation->set_field(problem.path);
    violation->set_description(problem.description);
  }
  absl::Status status =
      Error(absl::StatusCode::kInvalidArgument, kReason, message,
            {{"file", std::string(file)}, {"line", fmt::format("{}", problems[0].line)}});
  AddDetail(status, request);
  return status;
}

// The field that a key of the file's top level stands for; null where there is none.
const FieldDescriptor* TopLevelField(const std::string& name) {
  const Descriptor* job = teq::v1::Job::descriptor();
  if (name == "priority" || name == "labels") return job->FindFieldByName(name);
  if (name == kProject) return job->FindFieldByName("name");  // text, and a part of it
  return teq::v1::JobSpec::descriptor()->FindFieldByName(name);
}

// The field that a key means inside a value of `outer`.
const FieldDescriptor* FieldInside(const FieldDescriptor* outer, const std::string& name) {
  if (outer == nullptr || outer->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) return nullptr;
  if (outer->is_map()) return outer->message_type()->map_value();
  return outer->message_type()->FindFieldByName(name);
}

// Whether JSON writes a value of the field as text.
bool IsText(const FieldDescriptor* field) {
  if (field == nullptr) return false;
  if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
    return field->message_type() == google::protobuf::Duration::descriptor() ||
           field->message_type() == google::protobuf::Timestamp::descriptor();
  }
  return field->cpp_type() == FieldDescriptor::CPPTYPE_STRING ||
         field->cpp_type() == FieldDescriptor::CPPTYPE_ENUM;
}

int Line(const YAML::Node& node) { return node.Mark().line + 1; }

// Turns nodes into JSON, remembers the line of every path, and collects problems. The field that a
// node is read into decides how an unquoted scalar is understood: `team: 7` is text in labels.
class Converter {
 public:
  [[nodiscard]] Json ConvertRoot(const YAML::Node& root) {
    return ConvertMap(root, nullptr, "", 0);
  }

  // Adds a problem at the line of the field, or of the nearest one around it.
  void Complain(const std::string& path, const std::string& description) {
    problems_.push_back({LineOf(path), path, description});
  }

  // Adds those of a FromJson.
  void ComplainAll(const absl::Status& status);

  [[nodiscard]] const std::vector<Problem>& problems() const { return problems_; }

 private:
  [[nodiscard]] Json Convert(const YAML::Node& node, const FieldDescriptor* field,
                             const std::string& path, int depth);
  [[nodiscard]] Json ConvertMap(const YAML::Node& node, const FieldDescriptor* field,
                                const std::string& path, int depth);
  [[nodiscard]] Json ConvertScalar(const YAML::Node& node, const FieldDescriptor* field,
                                   const std::string& path);
  [[nodiscard]] int LineOf(std::string path) const;
  // Complains once.
  void StopExpanding(const std::string& path);

  std::map<std::string, int> lines_;
  std::vector<Problem> problems_;
  int nodes_ = 0;
  bool stopped_ = false;
};

void Converter::ComplainAll(const absl::Status& status) {
  const google::rpc::Status proto = ToProto(status);
  for (const auto& detail : proto.details()) {
    BadRequest request;
    if (!detail.UnpackTo(&request)) continue;
    for (const auto& violation : request.field_violations()) {
      Complain(violation.field(), violation.description());
    }
  }
}

int Converter::LineOf(std::string path) const {
  while (!path.empty()) {
    if (const auto line = lines_.find(path); line != lines_.end()) return line->second;
    const std::size_t cut = path.find_last_of(".[");
    path.resize(cut == std::string::npos ? 0 : cut);
  }
  return 0;
}

void Converter::StopExpanding(const std::string& path) {
  if (!stopped_) {
    Complain(path, "is nested too deeply, or aliases expand to too much; write it out");
  }
  stopped_ = true;
}

Json Converter::Convert(const YAML::Node& node, const FieldDescriptor* field,
                        const std::string& path, int depth) {
  if (++nodes_ > kMaxNodes || depth > kMaxDepth) StopExpanding(path);
  if (stopped_) return nullptr;
  if (node.IsMap()) return ConvertMap(node, field, path, depth);
  if (node.IsScalar()) return ConvertScalar(node, field, path);
  if (!node.IsSequence()) return nullptr;
  // A list where one value belongs is an error soon; its items have no type then.
  const FieldDescriptor* item_field = field != nullptr && field->is_repeated() ? field : nullptr;
  Json list = Json::array();
  for (const YAML::Node& item : node) {
    const std::string item_path = fmt::format("{}[{}]", path, list.size());
    lines_[item_path] = Line(item);
    list.push_back(Convert(item, item_field, item_path, depth + 1));
    if (stopped_) break;
  }
  return list;
}

Json Converter::ConvertMap(const YAML::Node& node, const FieldDescriptor* field,
                           const std::string& path, int depth) {
  Json object = Json::object();
  for (const auto& entry : node) {
    if (!entry.first.IsScalar()) {
      problems_.push_back({Line(entry.first), path, "has a key that is not a plain word"});
      continue;
    }
    const std::string& name = entry.first.Scalar();
    const std::string inner = path.empty() ? name : fmt::format("{}.{}", path, name);
    lines_[inner] = Line(entry.first);
    if (object.contains(name)) {
      Complain(inner, "is given twice; keep one of them");
      continue;
    }
    const FieldDescriptor* target = path.empty() ? TopLevelField(name) : FieldInside(field, name);
    object[name] = Convert(entry.second, target, inner, depth + 1);
    if (stopped_) break;
  }
  return object;
}

Json Converter::ConvertScalar(const YAML::Node& node, const FieldDescriptor* field,
                              const std::string& path) {
  const std::string& tag = node.Tag();
  if (tag == "!") return node.Scalar();  // quoted
  if (!tag.empty() && tag != "?") {
    Complain(path, fmt::format("has the tag {}; write the value without it", tag));
  }
  return IsText(field) ? Json(node.Scalar()) : ReadPlainScalar(node.Scalar());
}

// The first line that is not UTF-8; 0: all are.
int LineNotUtf8(std::string_view text) {
  for (int line = 1; !text.empty(); ++line) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    if (!IsUtf8(text.substr(0, end))) return line;
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return 0;
}

// Whether the line, counted from 0, begins with white space that has a tab in it.
bool IsIndentedByTab(std::string_view text, int line) {
  for (; line > 0 && !text.empty(); --line) {
    text.remove_prefix(std::min(text.find('\n'), text.size() - 1) + 1);
  }
  const std::string_view indentation = text.substr(0, text.find_first_not_of(" \t"));
  return line == 0 && indentation.find('\t') != std::string_view::npos;
}

std::string NotYaml(std::string_view text, const YAML::Exception& e) {
  std::string problem = fmt::format("is not YAML: {}", e.msg);
  if (IsIndentedByTab(text, e.mark.line)) {
    problem += "; the line is indented by a tab, which YAML does not take; write spaces";
  }
  return problem;
}

absl::StatusOr<YAML::Node> LoadOneDocument(std::string_view yaml, std::string_view file) {
  const auto broken = [file](int line, std::string problem) {
    return MakeError(file, {{line, "", std::move(problem)}});
  };
  if (yaml.size() > kMaxBytes) {
    return broken(0,
                  fmt::format("has {} bytes; a job file has at most {}", yaml.size(), kMaxBytes));
  }
  if (const int line = LineNotUtf8(yaml); line > 0) {
    return broken(line, "is not UTF-8; save the file in that encoding");
  }
  std::vector<YAML::Node> documents;
  try {
    documents = YAML::LoadAll(std::string(yaml));
  } catch (const YAML::Exception& e) {
    return broken(e.mark.line + 1, NotYaml(yaml, e));
  }
  if (documents.size() > 1) {
    return broken(0, fmt::format("holds {} documents; write one job to a file", documents.size()));
  }
  if (documents.empty() || documents[0].IsNull()) {
    return broken(0, "is empty; a job needs at least model, calibration and output");
  }
  if (!documents[0].IsMap()) {
    return broken(Line(documents[0]), "is not a map; write fields such as \"model: {uri: ...}\"");
  }
  return documents[0];
}

std::string KnownTopLevelFields() {
  std::string known = "project, priority, labels";
  const Descriptor* spec = teq::v1::JobSpec::descriptor();
  for (int i = 0; i < spec->field_count(); ++i) known += ", " + spec->field(i)->name();
  return known;
}

void ReadProject(const Json& json, Converter& converter, JobFile& result) {
  const auto complain = [&converter](const std::string& description) {
    converter.Complain(std::string(kProject), description);
  };
  if (json.is_null()) return complain("has no value; give it one, or leave the line out");
  if (!json.is_string()) {
    return complain(fmt::format("expected a name, got {}", json.is_array() ? "a list" : "a map"));
  }
  const auto project = json.get<std::string>();
  if (!IsResourceId(project) || project == "-") {
    return complain(
        fmt::format("\"{}\" is not a project; use 1 to 63 of a-z, 0-9 and '-'", project));
  }
  result.project = project;
}

JobFile ReadFields(const Json& file, Converter& converter) {
  JobFile result;
  Json job = Json::object();
  Json spec = Json::object();
  for (const auto& [name, value] : file.items()) {
    const FieldDescriptor* field = TopLevelField(name);
    if (field == nullptr) {
      converter.Complain(name, fmt::format("unknown field; known: {}", KnownTopLevelFields()));
    } else if (name == kProject) {
      ReadProject(value, converter, result);
    } else if (field->containing_type() == teq::v1::Job::descriptor()) {
      job[name] = value;
    } else {
      spec[name] = value;
    }
  }
  converter.ComplainAll(FromJson(job, &result.job));
  converter.ComplainAll(FromJson(spec, result.job.mutable_spec()));
  return result;
}

}  // namespace

absl::StatusOr<JobFile> ParseJobFile(std::string_view yaml, std::string_view file) {
  TEQ_ASSIGN_OR_RETURN(const YAML::Node root, LoadOneDocument(yaml, file));
  Converter converter;
  const Json json = converter.ConvertRoot(root);
  JobFile result;
  // What an endless alias leaves is no file to look into further.
  if (converter.problems().empty()) result = ReadFields(json, converter);
  if (!converter.problems().empty()) return MakeError(file, converter.problems());
  return result;
}

}  // namespace teq
