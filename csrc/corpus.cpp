#include "corpus.h"

#include <cmath>
#include <limits>

namespace mars {
namespace {

constexpr int64_t kMaxCaptions = std::numeric_limits<uint16_t>::max();

int64_t num_images(Kind kind) { return kind == kKindPair ? 2 : kind == kKindImage ? 1 : 0; }

int64_t interleaved_rows(const Corpus& corpus, int64_t document) {
  int64_t rows = 0;  // the parts and the end of the text, less the last token, which is no input
  for (int64_t i = corpus.begin(document); i < corpus.end(document); ++i) {
    rows += corpus.lengths[i] + (corpus.modes[i] == kModePartImage ? 2 : 0);
  }
  return rows;
}

const char* check_sequence(const Corpus& corpus, int64_t i, Kind kind, int64_t captions_end) {
  const int8_t mode = corpus.modes[i];
  const int64_t length = corpus.lengths[i];
  if (length < 1) return "has an empty sequence";
  if (kind == kKindInterleaved) {
    if (mode != kModePartText && mode != kModePartImage) return "mixes parts of interleaved documents with others";
    if (mode == kModePartImage && length != corpus.num_codes) return "has an image of another size than the manifest says";
    return nullptr;
  }
  if (corpus.weights && i < captions_end && !(corpus.weights[i] > 0 && std::isfinite(corpus.weights[i]))) {
    return "has a caption weight that is not a finite number above 0";
  }
  if (i < captions_end) return mode == kModeText ? nullptr : "is not captions followed by an image";
  // The last sequences: low, image (pair) or image.
  const int64_t expected = mode == kModeLow ? corpus.num_low_codes : corpus.num_codes;
  return length == expected ? nullptr : "has an image of another size than the manifest says";
}

const char* check_document(const Corpus& corpus, int64_t document, Kind kind, int64_t& longest) {
  const int64_t begin = corpus.begin(document), end = corpus.end(document);
  const int64_t captions_end = kind == kKindInterleaved ? begin : end - num_images(kind);
  if (kind != kKindInterleaved) {
    if (captions_end == begin) return "has an image without a caption";
    if (captions_end - begin > kMaxCaptions) return "has more than 65535 captions";
    if (kind == kKindText && captions_end - begin != 1) return "has more than one text and no image";
  }
  longest = 0;
  for (int64_t i = begin; i < end; ++i) {
    if (const char* problem = check_sequence(corpus, i, kind, captions_end)) return problem;
    if (i < captions_end && corpus.lengths[i] > longest) longest = corpus.lengths[i];
  }
  if (kind == kKindInterleaved) longest = interleaved_rows(corpus, document);
  return nullptr;
}

}  // namespace

Kind kind_of(const Corpus& corpus, int64_t document) {
  const int64_t end = corpus.end(document);
  const int8_t last = corpus.modes[end - 1];
  if (last == kModePartText || last == kModePartImage) return kKindInterleaved;
  if (last != kModeImage) return kKindText;
  return end - corpus.begin(document) > 1 && corpus.modes[end - 2] == kModeLow ? kKindPair : kKindImage;
}

Scan scan(const Corpus& corpus) {
  Scan found;
  if (corpus.num_documents >= std::numeric_limits<uint32_t>::max()) {
    found.problem = "has more documents than 32 bits count; split it into several";
    return found;
  }
  for (int64_t document = 0; document < corpus.num_documents; ++document) {
    const int64_t begin = corpus.begin(document), end = corpus.end(document);
    const char* problem = nullptr;
    int64_t longest = 0;
    if ((document == 0 && begin != 0) || end <= begin || end > corpus.num_sequences) {
      problem = "is empty or lies outside of the index";
    } else {
      const Kind kind = kind_of(corpus, document);
      problem = check_document(corpus, document, kind, longest);
      if (!problem) ++found.documents[kind];
      if (!problem && longest > found.longest[kind]) {
        found.longest[kind] = longest;
        found.longest_document[kind] = document;
      }
    }
    if (problem) {
      found.problem = "document " + std::to_string(document) + " " + problem;
      return found;
    }
  }
  const int64_t covered = corpus.num_documents ? corpus.end(corpus.num_documents - 1) : 0;
  if (covered != corpus.num_sequences) found.problem = "has sequences behind its last document";
  return found;
}

int64_t num_captions(const Corpus& corpus, int64_t document, Kind kind) {
  return corpus.end(document) - corpus.begin(document) - num_images(kind);
}

int64_t sample_rows(const Corpus& corpus, int64_t document, Task task, int64_t text) {
  // Marks (BOI, EOI) and the end of the text, less the last token of a layout, which is no input.
  switch (task) {
    case kT2i: return text + corpus.num_codes + 1;
    case kI2t: return text + corpus.num_codes + 2;
    case kSr: return text + corpus.num_low_codes + corpus.num_codes + 3;
    case kTextOnly: return text;
    default: return interleaved_rows(corpus, document);
  }
}

}  // namespace mars
