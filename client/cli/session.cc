#include "client/cli/session.h"

#include <ostream>

#include "client/cli/text.h"
#include "fmt/format.h"
#include "proto/spec/error.h"
#include "proto/spec/json.h"
#include "proto/spec/resource_name.h"
#include "proto/spec/yaml.h"

namespace teq::cli {

void PrintError(const Terminal& terminal, Format format, const absl::Status& status) {
  if (format == Format::kJson) {
    using Json = nlohmann::ordered_json;
    terminal.err << ToJson(ToProto(status)).dump(-1, ' ', false, Json::error_handler_t::replace)
                 << "\n";
    return;
  }
  terminal.err << fmt::format("teqctl: {}: {}\n", Printable(ErrorReason(status)),
                              Printable(std::string(status.message())));
}

void PrintJson(const Session& session, const nlohmann::ordered_json& json) {
  using Json = nlohmann::ordered_json;
  session.terminal.out << (session.format == Format::kYaml
                               ? WriteYaml(json)
                               : json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

void Print(const Session& session, const google::protobuf::Message& message,
           const std::string& text) {
  if (session.format == Format::kTable) {
    session.terminal.out << text;
  } else {
    PrintJson(session, ToJson(message));
  }
}

ExitCode FailLocally(const Session& session, const absl::Status& status) {
  PrintError(session.terminal, session.format, status);
  return kInvalid;
}

ExitCode FailRemotely(const Session& session, const absl::Status& status) {
  const bool no_answer = absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status);
  const bool from_server = ErrorReason(status) != absl::StatusCodeToString(status.code());
  if (!no_answer || from_server) {
    PrintError(session.terminal, session.format, status);
    return no_answer ? kUnreachable : kRefused;
  }
  PrintError(
      session.terminal, session.format,
      Error(status.code(), "SERVER_UNREACHABLE",
            fmt::format("no answer from {} ({}); start teq-server, or name another server by "
                        "--server or TEQ_SERVER",
                        session.server, std::string(status.message())),
            {{"server", session.server}}));
  return kUnreachable;
}

absl::StatusOr<std::string> ProjectOf(const Session& session, const std::string& otherwise) {
  std::string project = session.project.value_or(otherwise);
  if (!IsResourceId(project)) {
    return Error(
        absl::StatusCode::kInvalidArgument, "INVALID_NAME",
        fmt::format("--project \"{}\" is not a project; use 1 to 63 of a-z, 0-9 and '-'", project));
  }
  return project;
}

absl::StatusOr<std::string> FullName(const Session& session, const std::string& name) {
  if (name.find('/') != std::string::npos) {
    TEQ_ASSIGN_OR_RETURN(const JobName parsed, ParseJobName(name));
    return parsed.ToString();
  }
  TEQ_ASSIGN_OR_RETURN(const std::string project, ProjectOf(session, "default"));
  TEQ_ASSIGN_OR_RETURN(const JobName parsed,
                       ParseJobName(fmt::format("projects/{}/jobs/{}", project, name)));
  return parsed.ToString();
}

}  // namespace teq::cli
