// A store by hand, for tests: store_tool COMMAND URI ARGUMENT... prints JSON, and an error's reason
// and message on stderr with exit code 1.

#include <sys/resource.h>

#include <chrono>
#include <functional>
#include <iostream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include "client/objects/file.h"
#include "client/objects/object_store.h"
#include "fmt/format.h"
#include "nlohmann/json.hpp"
#include "proto/spec/error.h"

namespace teq::objects {
namespace {

using nlohmann::json;
using Arguments = std::vector<std::string>;

json JsonOf(const ObjectInfo& object) {
  return {{"key", object.key}, {"bytes", object.bytes}, {"etag", object.etag}};
}

struct Command {
  std::size_t arguments;
  std::function<absl::StatusOr<json>(ObjectStore&, const Arguments&)> run;
};

absl::StatusOr<json> Head(ObjectStore& store, const Arguments& arguments) {
  TEQ_ASSIGN_OR_RETURN(const ObjectInfo object, store.Head(arguments[0]));
  return JsonOf(object);
}

absl::StatusOr<json> List(ObjectStore& store, const Arguments& arguments) {
  TEQ_ASSIGN_OR_RETURN(const auto objects, store.List(arguments[0]));
  json list = json::array();
  for (const ObjectInfo& object : objects) list.push_back(JsonOf(object));
  return list;
}

// read KEY OFFSET LENGTH ETAG: the bytes, which must be UTF-8.
absl::StatusOr<json> Read(ObjectStore& store, const Arguments& arguments) {
  TEQ_ASSIGN_OR_RETURN(
      const std::string content,
      store.Read(arguments[0], std::stoull(arguments[1]), std::stoull(arguments[2]), arguments[3]));
  return json{{"content", content}};
}

absl::StatusOr<json> Write(ObjectStore& store, const Arguments& arguments) {
  TEQ_RETURN_IF_ERROR(store.Write(arguments[0], arguments[1], IfExists::kReplace));
  return json::object();
}

absl::StatusOr<json> Create(ObjectStore& store, const Arguments& arguments) {
  TEQ_RETURN_IF_ERROR(store.Write(arguments[0], arguments[1], IfExists::kFail));
  return json::object();
}

// Runs a transfer; how long it took, the largest memory, and what progress said last.
absl::StatusOr<json> Measured(
    const std::function<absl::Status(const TransferProgress& progress)>& transfer) {
  std::uint64_t last = 0;
  std::uint64_t calls = 0;
  bool is_monotonic = true;
  const auto begin = std::chrono::steady_clock::now();
  TEQ_RETURN_IF_ERROR(transfer([&](std::uint64_t done, std::uint64_t total) {
    is_monotonic = is_monotonic && done >= last && done <= total;
    last = done;
    ++calls;
    return true;
  }));
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return json{{"seconds", seconds.count()},
              {"max_rss_kib", usage.ru_maxrss},
              {"progress", {{"last", last}, {"calls", calls}, {"monotonic", is_monotonic}}}};
}

// put KEY FILE [SHA256]
absl::StatusOr<json> Put(ObjectStore& store, const Arguments& arguments) {
  std::string sha256 = arguments.size() > 2 ? arguments[2] : "";
  if (sha256.empty()) {
    TEQ_ASSIGN_OR_RETURN(sha256, FileSha256(arguments[1]));
  }
  return Measured([&](const TransferProgress& progress) {
    return store.Upload(arguments[0], arguments[1], sha256, progress);
  });
}

absl::StatusOr<json> Get(ObjectStore& store, const Arguments& arguments) {
  TEQ_ASSIGN_OR_RETURN(const ObjectInfo object, store.Head(arguments[0]));
  return Measured([&](const TransferProgress& progress) {
    return store.Download(object, arguments[1], progress);
  });
}

// stop KEY FILE: an upload that is stopped as soon as it says something.
absl::StatusOr<json> Stop(ObjectStore& store, const Arguments& arguments) {
  TEQ_ASSIGN_OR_RETURN(const std::string sha256, FileSha256(arguments[1]));
  const TransferProgress stop = [](std::uint64_t, std::uint64_t) { return false; };
  TEQ_RETURN_IF_ERROR(store.Upload(arguments[0], arguments[1], sha256, stop));
  return json::object();
}

absl::StatusOr<json> Remove(ObjectStore& store, const Arguments& arguments) {
  TEQ_RETURN_IF_ERROR(store.Remove(arguments[0]));
  return json::object();
}

absl::StatusOr<json> Abort(ObjectStore& store, const Arguments& arguments) {
  TEQ_RETURN_IF_ERROR(store.AbortUploads(arguments[0]));
  return json::object();
}

absl::StatusOr<json> Presign(ObjectStore& store, const Arguments& arguments) {
  TEQ_ASSIGN_OR_RETURN(const SignedUrl signed_url,
                       store.PresignedUrl(arguments[0], absl::Seconds(std::stoll(arguments[1]))));
  return json{{"url", signed_url.url}};
}

const std::map<std::string, Command>& Commands() {
  static const std::map<std::string, Command> commands = {
      {"head", {1, Head}},       {"list", {1, List}},     {"read", {4, Read}},
      {"write", {2, Write}},     {"create", {2, Create}}, {"put", {2, Put}},
      {"get", {2, Get}},         {"rm", {1, Remove}},     {"abort", {1, Abort}},
      {"presign", {2, Presign}}, {"stop", {2, Stop}}};
  return commands;
}

json ErrorJson(const absl::Status& status) {
  return {{"reason", ErrorReason(status)}, {"message", std::string(status.message())}};
}

absl::StatusOr<json> Run(ObjectStore& store, const std::string& name, const Arguments& arguments) {
  const auto command = Commands().find(name);
  if (command == Commands().end() || arguments.size() < command->second.arguments) {
    return Error(absl::StatusCode::kInvalidArgument, "USAGE", "store_tool COMMAND URI ARGUMENT...");
  }
  return command->second.run(store, arguments);
}

// batch: commands as JSON lists of words, one a line of stdin; an answer a line.
absl::StatusOr<json> RunLines(ObjectStore& store) {
  for (std::string line; std::getline(std::cin, line);) {
    Arguments words = json::parse(line).get<Arguments>();
    const std::string name = words.front();
    words.erase(words.begin());
    const absl::StatusOr<json> answer = Run(store, name, words);
    std::cout << (answer.ok() ? *answer : json{{"error", ErrorJson(answer.status())}}).dump()
              << std::endl;
  }
  return json();
}

int Main(const Arguments& words) {
  if (words.size() < 2) {
    std::cerr << "usage: store_tool COMMAND URI ARGUMENT...\n";
    return 2;
  }
  const auto store = OpenStore(words[1], {});
  const absl::StatusOr<json> answer =
      !store.ok()           ? absl::StatusOr<json>(store.status())
      : words[0] == "batch" ? RunLines(**store)
                            : Run(**store, words[0], {words.begin() + 2, words.end()});
  if (!answer.ok()) {
    std::cerr << ErrorJson(answer.status()).dump() << "\n";
    return 1;
  }
  if (!answer->is_null()) std::cout << answer->dump() << "\n";
  return 0;
}

}  // namespace
}  // namespace teq::objects

int main(int argc, char** argv) { return teq::objects::Main({argv + 1, argv + argc}); }
