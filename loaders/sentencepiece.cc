#include "loaders/sentencepiece.h"

#include <sentencepiece_processor.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <vector>

struct ebb_spm {
  sentencepiece::SentencePieceProcessor processor;
};

/* No exception may pass into C: what is thrown becomes the message. */
template <typename Work> static bool guarded(char *why, size_t size, Work work) {
  try {
    const std::string said = work();
    snprintf(why, size, "%s", said.c_str());
    return said.empty();
  } catch (const std::exception &e) {
    snprintf(why, size, "%s", e.what());
  } catch (...) {
    snprintf(why, size, "an exception without a message");
  }
  return false;
}

static std::string message_of(const sentencepiece::util::Status &status) {
  return status.ok() ? std::string() : "SentencePiece: " + status.ToString();
}

extern "C" ebb_spm *ebb_spm_open(const void *bytes, size_t count, char *why, size_t size) {
  std::unique_ptr<ebb_spm> spm;
  const bool ok = guarded(why, size, [&] {
    spm = std::make_unique<ebb_spm>();
    return message_of(spm->processor.LoadFromSerializedProto({static_cast<const char *>(bytes), count}));
  });
  return ok ? spm.release() : nullptr;
}

extern "C" void ebb_spm_close(ebb_spm *spm) {
  delete spm;
}

extern "C" int ebb_spm_pieces(const ebb_spm *spm) {
  return spm->processor.GetPieceSize();
}

extern "C" int ebb_spm_piece(const ebb_spm *spm, const char *piece) {
  const int id = spm->processor.PieceToId(piece);
  return id >= 0 && id < spm->processor.GetPieceSize() && spm->processor.IdToPiece(id) == piece ? id : -1;
}

extern "C" int *ebb_spm_encode(const ebb_spm *spm, const char *text, size_t bytes, size_t *count, char *why,
                               size_t size) {
  std::vector<int> ids;
  if (!guarded(why, size, [&] { return message_of(spm->processor.Encode({text, bytes}, &ids)); }))
    return nullptr;
  int *copy = static_cast<int *>(malloc((ids.size() + 1) * sizeof(int)));
  if (copy == nullptr) {
    snprintf(why, size, "no memory for %zu tokens", ids.size());
    return nullptr;
  }
  if (!ids.empty())
    memcpy(copy, ids.data(), ids.size() * sizeof(int));
  *count = ids.size();
  return copy;
}
