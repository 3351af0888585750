#include "client/cli/app.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>
#include <ostream>
#include <random>

#include "CLI/CLI.hpp"
#include "absl/strings/escaping.h"
#include "client/cli/artifacts.h"
#include "client/cli/estimate.h"
#include "client/cli/recipes.h"
#include "client/cli/usage.h"
#include "fmt/format.h"
#include "fmt/ranges.h"
#include "proto/spec/error.h"
#include "proto/spec/trace_parent.h"
#include "proto/spec/utf8.h"
#include "proto/spec/yaml.h"

namespace teq::cli {
namespace {

constexpr const char* kFooter =
    "NAME is projects/{project}/jobs/{job}, or the id of a job in the project. WHAT is that, or "
    "the\n"
    "URI of an output, such as s3://bucket/prefix; object stores are reached as their own tools "
    "do,\n"
    "by AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL_S3 and so on.\n"
    "Exit codes: 0 done; 1 the watched job did not succeed, or a published file is not as its\n"
    "manifest says; 2 wrong usage or job file; 3 the server or the store refused; 4 none "
    "answered;\n"
    "130 stopped by Ctrl-C: a watched job goes on, a pull can be resumed.";

// All that the command line says.
struct CommandLine {
  std::string server = kDefaultServer;
  std::string project;
  Format format = Format::kTable;
  std::string name;
  std::string preset;
  SubmitOptions submit;
  EstimateOptions estimate;
  ListOptions list;
  UpdateOptions update;
  PullOptions pull;
  VerifyOptions verify;
};

using Action = std::function<ExitCode(const Session&)>;

// The commands, and what each does with the session.
class App {
 public:
  App();

  [[nodiscard]] ExitCode Run(std::vector<std::string> arguments, const Terminal& terminal,
                             const Connector& connect);

 private:
  [[nodiscard]] std::string WhatIsWrong(const CLI::ParseError& error) const;
  CLI::App* Add(const std::string& command, const std::string& description, Action action);
  void AddNamed(const std::string& command, const std::string& description,
                ExitCode (*action)(const Session&, const std::string&));
  void AddSubmit();
  void AddEstimate();
  void AddList();
  void AddUpdate();
  void AddArtifacts();

  CLI::App app_{"Submits quantization jobs to a teq-server, and follows and steers them.",
                "teqctl"};
  CommandLine line_;
  std::map<const CLI::App*, Action> actions_;
  // Those that need no server.
  CLI::App* recipe_ = nullptr;
  CLI::App* version_ = nullptr;
};

App::App() {
  app_.footer(kFooter);
  app_.require_subcommand(1);
  app_.set_version_flag("--version", "teqctl " TEQ_VERSION);
  app_.add_option("--server", line_.server, "host:port of the server, or unix:PATH")
      ->envname("TEQ_SERVER")
      ->capture_default_str();
  app_.add_option("--project", line_.project, "the project; for list, - is all of them");
  app_.add_option_function<std::string>(
          "-o,--output",
          [this](const std::string& name) {
            line_.format = name == "json"   ? Format::kJson
                           : name == "yaml" ? Format::kYaml
                                            : Format::kTable;
          },
          "table, json or yaml")
      ->check(CLI::IsMember({"table", "json", "yaml"}))
      ->option_text("FORMAT");
  AddSubmit();
  AddEstimate();
  AddNamed("get", "Show a job", &Get);
  AddList();
  AddNamed("watch", "Follow a job to its end", &Watch);
  AddNamed("cancel", "Ask for the end of a job", &Cancel);
  AddNamed("retry", "Queue a failed, cancelled or expired job again", &Retry);
  AddNamed("delete", "Forget a finished job; what it published stays", &Delete);
  AddUpdate();
  AddNamed("report", "Show what a job's run measured", &ShowReport);
  AddArtifacts();
  recipe_ =
      app_.add_subcommand("recipe", "Show a preset as a job file would write it, or list them")
          ->fallthrough();
  recipe_->add_option("PRESET", line_.preset, "the preset's name; default: list them");
  version_ = app_.add_subcommand("version", "Print the version")->fallthrough();
}

CLI::App* App::Add(const std::string& command, const std::string& description, Action action) {
  CLI::App* sub = app_.add_subcommand(command, description)->fallthrough();
  actions_[sub] = std::move(action);
  return sub;
}

void App::AddNamed(const std::string& command, const std::string& description,
                   ExitCode (*action)(const Session&, const std::string&)) {
  Add(command, description,
      [this, action](const Session& session) { return action(session, line_.name); })
      ->add_option("NAME", line_.name, "the job")
      ->required();
}

void App::AddSubmit() {
  CLI::App* sub = Add("submit", "Check a job file and queue its job",
                      [this](const Session& s) { return Submit(s, line_.submit); });
  sub->add_option("-f,--file", line_.submit.file, "the job file; - is standard input")->required();
  sub->add_flag("--watch", line_.submit.watch, "follow the job to its end");
  sub->add_option("--job-id", line_.submit.job_id, "the job's id; default: the server's choice");
  sub->add_option("--request-id", line_.submit.request_id,
                  "a text, best a UUID, that makes repeats harmless; default: a new UUID");
  sub->add_flag("--validate-only", line_.submit.validate_only, "only check, queue nothing");
}

void App::AddEstimate() {
  CLI::App* sub = Add("estimate", "Show what a job would take: memory, disk, time, size",
                      [this](const Session& s) { return Estimate(s, line_.estimate); });
  sub->add_option("-f,--file", line_.estimate.file, "the job file; - is standard input")
      ->required();
  sub->add_flag("--local", line_.estimate.local,
                "ask no server: read the model's config.json from here; without times");
}

void App::AddList() {
  CLI::App* sub = Add("list", "List jobs, newest first",
                      [this](const Session& s) { return List(s, line_.list); });
  sub->add_option("--filter", line_.list.filter,
                  "such as 'state = RUNNING AND labels.team = \"search\"'");
  sub->add_option("--limit", line_.list.limit, "the most jobs to list; default: all")
      ->check(CLI::Range(1, std::numeric_limits<int>::max()));
}

void App::AddUpdate() {
  CLI::App* sub = Add("update", "Change a job's priority or labels",
                      [this](const Session& s) { return Update(s, line_.update); });
  sub->add_option("NAME", line_.update.name, "the job")->required();
  sub->add_option_function<std::int32_t>(
      "--priority", [this](const std::int32_t& value) { line_.update.priority = value; },
      "larger runs sooner");
  sub->add_option("--label", line_.update.labels, "key=value to set; may be given again")
      ->allow_extra_args(false);
  sub->add_option("--remove-label", line_.update.removed_labels,
                  "key to remove; may be given again")
      ->allow_extra_args(false);
}

void App::AddArtifacts() {
  Add("artifacts", "List published checkpoints, of one job or of a project",
      [this](const Session& s) { return ListArtifacts(s, line_.name); })
      ->add_option("NAME", line_.name, "the job; default: all of the project");
  AddNamed("manifest", "Show a job's manifest as it was published", &ShowManifest);
  CLI::App* pull = Add("pull", "Bring published checkpoints here, and check every byte",
                       [this](const Session& s) { return Pull(s, line_.pull); });
  pull->add_option("WHAT", line_.pull.what, "a job, or the URI of an output")->required();
  pull->add_option("DIRECTORY", line_.pull.directory, "a new directory, or one to complete")
      ->required();
  pull->add_option("--format", line_.pull.format,
                   "only this format; default: all, and the reports");
  pull->add_flag("--via-server", line_.pull.via_server,
                 "by URLs that the server makes, without credentials of your own");
  CLI::App* verify = Add("verify", "Read every published byte and compare it with the manifest",
                         [this](const Session& s) { return Verify(s, line_.verify); });
  verify->add_option("WHAT", line_.verify.what, "a job, or the URI of an output")->required();
  verify->add_option("--format", line_.verify.format, "only this format");
  verify->add_flag("--via-server", line_.verify.via_server, "let the server read");
}

// The environment's trace; a new one where it has none, or one that W3C Trace Context ignores.
std::string TraceOf(const Terminal& terminal) {
  std::random_device device;
  const auto random = [&device] { return std::uint64_t{device()} << 32U | device(); };
  return ParseTraceParent(terminal.traceparent).value_or(NewTraceParent(random)).ToString();
}

void PrintVersion(const Terminal& terminal, Format format) {
  const nlohmann::ordered_json json = {{"version", TEQ_VERSION}};
  if (format == Format::kTable) terminal.out << "teqctl " TEQ_VERSION "\n";
  if (format == Format::kJson) terminal.out << json.dump() << "\n";
  if (format == Format::kYaml) terminal.out << WriteYaml(json);
}

// Any argument may become a field of a message, which holds nothing else.
absl::Status CheckUtf8(const std::vector<std::string>& arguments) {
  const auto wrong = std::ranges::find_if_not(arguments, IsUtf8);
  if (wrong == arguments.end()) return absl::OkStatus();
  return Usage(fmt::format("argument {}, \"{}\", is not UTF-8; write it in UTF-8",
                           wrong - arguments.begin() + 1, absl::CHexEscape(*wrong)));
}

// Of such a target gRPC prints lines of its own, and its error does not name it.
absl::Status CheckServer(const std::string& server) {
  if (!server.empty() && !server.ends_with(':') && IsUtf8(server)) return absl::OkStatus();
  return Usage(
      fmt::format("--server or TEQ_SERVER: \"{}\" is no address of a server; write host:port, such "
                  "as {}, or unix:PATH",
                  absl::CHexEscape(server), kDefaultServer));
}

// CLI11 says that a command is missing where the one that is given is unknown.
std::string App::WhatIsWrong(const CLI::ParseError& error) const {
  const std::vector<std::string> left = app_.remaining();
  const auto word =
      std::ranges::find_if(left, [](const std::string& each) { return !each.starts_with('-'); });
  if (!app_.get_subcommands().empty() || word == left.end()) return error.what();
  std::vector<std::string> known;
  for (const CLI::App* sub : app_.get_subcommands(nullptr)) known.push_back(sub->get_name());
  return fmt::format("\"{}\" is no command; known: {}", *word, fmt::join(known, ", "));
}

ExitCode App::Run(std::vector<std::string> arguments, const Terminal& terminal,
                  const Connector& connect) {
  const absl::Status is_utf8 = CheckUtf8(arguments);
  const auto fail = [&](const absl::Status& status) {
    PrintError(terminal, line_.format, status);
    return kInvalid;
  };
  std::ranges::reverse(arguments);  // as CLI11 takes them
  try {
    app_.parse(std::move(arguments));
  } catch (const CLI::Success& e) {
    app_.exit(e, terminal.out, terminal.err);  // --help
    return kOk;
  } catch (const CLI::ParseError& e) {
    if (!is_utf8.ok()) return fail(is_utf8);
    return fail(Usage(fmt::format("{}; see teqctl --help", WhatIsWrong(e))));
  }
  // Only now -o is known.
  if (!is_utf8.ok()) return fail(is_utf8);
  if (version_->parsed()) {
    PrintVersion(terminal, line_.format);
    return kOk;
  }
  if (recipe_->parsed()) return ShowRecipe(terminal, line_.format, line_.preset);
  if (const absl::Status server = CheckServer(line_.server); !server.ok()) return fail(server);
  const Stubs stubs = connect(line_.server);
  Session session{*stubs.jobs,  *stubs.artifacts, terminal,         line_.format,
                  line_.server, std::nullopt,     TraceOf(terminal)};
  if (!line_.project.empty()) session.project = line_.project;
  return actions_.at(app_.get_subcommands().at(0))(session);
}

}  // namespace

ExitCode RunTeqctl(const std::vector<std::string>& arguments, const Terminal& terminal,
                   const Connector& connect) {
  return App().Run(arguments, terminal, connect);
}

}  // namespace teq::cli
