#include "worker/engine/text/sentencepiece_model.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <system_error>

#include "fmt/format.h"
#include "proto/spec/error.h"
#include "worker/engine/text/sentencepiece_protocol.h"

namespace teq::text {
namespace {

constexpr std::string_view kProgram = "teq-sentencepiece";

absl::Status Invalid(std::string_view what) {
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_TOKENIZER",
               fmt::format("tokenizer.model: {}", what));
}

absl::Status CannotStart(const std::filesystem::path& program, int code) {
  return Error(
      absl::StatusCode::kFailedPrecondition, "INVALID_TOKENIZER",
      fmt::format("tokenizer.model: needs the program {}, which cannot be started: {}; "
                  "install it beside teq-worker",
                  program.string(), std::error_code(code, std::generic_category()).message()));
}

std::filesystem::path ProgramPath() {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/self/exe", error).parent_path() / kProgram;
}

// Starts `program model`, and kNoDummyPrefix without `dummy_prefix`, with `socket` as its standard
// input and nothing else of ours; an errno, or 0.
int Spawn(const std::filesystem::path& program, const std::filesystem::path& model,
          bool dummy_prefix, int socket, pid_t* process) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, socket, STDIN_FILENO);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  // The library logs there; what matters comes back as a message.
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_addclosefrom_np(&actions, STDERR_FILENO + 1);
  std::string name = program.string();
  std::string argument = model.string();
  std::string option(kNoDummyPrefix);
  char* arguments[] = {name.data(), argument.data(), dummy_prefix ? nullptr : option.data(),
                       nullptr};
  const int code = posix_spawn(process, name.c_str(), &actions, nullptr, arguments, environ);
  posix_spawn_file_actions_destroy(&actions);
  return code;
}

}  // namespace

absl::StatusOr<std::unique_ptr<SentencePieceModel>> SentencePieceModel::Load(
    const std::filesystem::path& file, bool dummy_prefix) {
  auto model = std::unique_ptr<SentencePieceModel>(new SentencePieceModel);
  TEQ_RETURN_IF_ERROR(model->Start(file, dummy_prefix));
  TEQ_ASSIGN_OR_RETURN(const auto greeting, model->Receive());
  if (greeting.size() != 3) return Invalid(fmt::format("{} greets wrongly", kProgram));
  model->size_ = greeting[0];
  if (greeting[1] >= 0) model->bos_ = greeting[1];
  if (greeting[2] >= 0) model->eos_ = greeting[2];
  return model;
}

SentencePieceModel::~SentencePieceModel() {
  if (socket_ >= 0) close(socket_);  // tells the program to end
  if (process_ > 0) {
    while (waitpid(process_, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
}

absl::Status SentencePieceModel::Start(const std::filesystem::path& file, bool dummy_prefix) {
  const auto program = ProgramPath();
  int sockets[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0) {
    return CannotStart(program, errno);
  }
  socket_ = sockets[0];
  const int code = Spawn(program, file, dummy_prefix, sockets[1], &process_);
  close(sockets[1]);
  if (code == 0) return absl::OkStatus();
  process_ = -1;
  return CannotStart(program, code);
}

absl::StatusOr<std::vector<std::int32_t>> SentencePieceModel::Receive() const {
  const auto frame = ReadFrame(socket_);
  if (!frame || frame->empty()) {
    return Invalid(
        fmt::format("{} ended at it; the file is no SentencePiece model, or memory is "
                    "short",
                    kProgram));
  }
  const std::string_view body = std::string_view(*frame).substr(1);
  if (frame->front() != kOk) return Invalid(body);
  std::vector<std::int32_t> numbers(body.size() / sizeof(std::int32_t));
  std::memcpy(numbers.data(), body.data(), numbers.size() * sizeof(std::int32_t));
  return numbers;
}

absl::StatusOr<std::vector<std::int32_t>> SentencePieceModel::Ask(char request,
                                                                  std::string_view text) const {
  const std::lock_guard lock(mutex_);
  // A failed write shows as a missing answer.
  (void)WriteFrame(socket_, fmt::format("{}{}", request, text));
  return Receive();
}

absl::StatusOr<std::vector<std::int32_t>> SentencePieceModel::Encode(std::string_view text) const {
  return Ask(kEncode, text);
}

absl::StatusOr<std::optional<std::int32_t>> SentencePieceModel::Find(std::string_view piece) const {
  TEQ_ASSIGN_OR_RETURN(const auto numbers, Ask(kFind, piece));
  if (numbers.size() != 1 || numbers[0] < 0) return std::optional<std::int32_t>();
  return std::optional<std::int32_t>(numbers[0]);
}

}  // namespace teq::text
