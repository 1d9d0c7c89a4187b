// A SavedModel from C: token by token, its states handed from call to call; or one text.
//
//   saved_model stream DIRECTORY TOKENS LOGITS [STATE_IN STATE_OUT]...   < numbers
//   saved_model text DIRECTORY INPUT TEXT OUTPUT...
//
// Tensors are named as in the graph, such as step_tokens:0. Prints the elements of the outputs, one a line; `stream` prints the
// logits and the states after the last token.

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensorflow/c/c_api.h"

enum { MOST = 64 };  // tensors in a call

typedef struct {
  TF_Graph *graph;
  TF_Session *session;
  TF_Status *status;
} Model;

static void fail(const char *what, const char *why) {
  fprintf(stderr, "saved_model: %s: %s\n", what, why);
  exit(EXIT_FAILURE);
}

static void check(const TF_Status *status, const char *what) {
  if (TF_GetCode(status) != TF_OK) fail(what, TF_Message(status));
}

static Model open_model(const char *directory) {
  Model model = {.graph = TF_NewGraph(), .status = TF_NewStatus()};
  TF_SessionOptions *options = TF_NewSessionOptions();
  const char *tags[] = {"serve"};
  model.session = TF_LoadSessionFromSavedModel(options, NULL, directory, tags, 1, model.graph, NULL, model.status);
  check(model.status, directory);
  TF_DeleteSessionOptions(options);
  return model;
}

static void close_model(Model *model) {
  TF_CloseSession(model->session, model->status);
  check(model->status, "closing the session");
  TF_DeleteSession(model->session, model->status);
  check(model->status, "deleting the session");
  TF_DeleteGraph(model->graph);
  TF_DeleteStatus(model->status);
}

// The tensor with a name such as StatefulPartitionedCall:2, which is output 2 of that operation.
static TF_Output tensor_named(const Model *model, const char *name) {
  char operation[256];
  int output;
  if (sscanf(name, "%255[^:]:%d", operation, &output) != 2) fail(name, "a tensor has a name such as step_tokens:0");
  TF_Output tensor = {TF_GraphOperationByName(model->graph, operation), output};
  if (!tensor.oper || output < 0 || output >= TF_OperationNumOutputs(tensor.oper)) fail(name, "the graph has no such tensor");
  return tensor;
}

static TF_Tensor *new_tensor(TF_DataType type, const int64_t *shape, int axes, size_t bytes) {
  TF_Tensor *tensor = TF_AllocateTensor(type, shape, axes, bytes);
  if (!tensor) fail("TF_AllocateTensor", "out of memory");
  return tensor;
}

// A batch of one token.
static TF_Tensor *new_token(int32_t number) {
  TF_Tensor *tensor = new_tensor(TF_INT32, (int64_t[]){1}, 1, sizeof number);
  memcpy(TF_TensorData(tensor), &number, sizeof number);
  return tensor;
}

// A batch of one state before the first token: zeros, as wide as the graph says.
static TF_Tensor *new_state(const Model *model, TF_Output input) {
  int64_t shape[2] = {0};
  TF_GraphGetTensorShape(model->graph, input, shape, 2, model->status);
  check(model->status, "the shape of a state");
  if (shape[1] < 1) fail("the shape of a state", "its width is unknown");
  size_t bytes = (size_t)shape[1] * sizeof(float);
  TF_Tensor *tensor = new_tensor(TF_FLOAT, (int64_t[]){1, shape[1]}, 2, bytes);
  memset(TF_TensorData(tensor), 0, bytes);
  return tensor;
}

// A batch of one text.
static TF_Tensor *new_text(const char *text) {
  TF_Tensor *tensor = new_tensor(TF_STRING, (int64_t[]){1}, 1, sizeof(TF_TString));
  TF_StringInit(TF_TensorData(tensor));
  TF_StringCopy(TF_TensorData(tensor), text, strlen(text));
  return tensor;
}

static void print_element(const TF_Tensor *tensor, int64_t i) {
  const void *data = TF_TensorData(tensor);
  if (TF_TensorType(tensor) == TF_FLOAT) {
    printf("%.9g\n", ((const float *)data)[i]);
  } else if (TF_TensorType(tensor) == TF_INT32) {
    printf("%" PRId32 "\n", ((const int32_t *)data)[i]);
  } else if (TF_TensorType(tensor) == TF_STRING) {
    const TF_TString *text = (const TF_TString *)data + i;
    fwrite(TF_StringGetDataPointer(text), 1, TF_StringGetSize(text), stdout);
    putchar('\n');
  } else {
    fail("an output", "it holds neither float, int32 nor string");
  }
}

static void print_and_delete(TF_Tensor *tensor) {
  for (int64_t i = 0; i < TF_TensorElementCount(tensor); i++) print_element(tensor, i);
  TF_DeleteTensor(tensor);
}

static void run(const Model *model, const TF_Output *inputs, TF_Tensor **given, int given_count, const TF_Output *outputs,
                TF_Tensor **made, int made_count) {
  TF_SessionRun(model->session, NULL, inputs, given, given_count, outputs, made, made_count, NULL, 0, NULL, model->status);
  check(model->status, "running the model");
}

// Element 0 of each array is the token or its logits, the others are the states.
static void stream(const Model *model, int names_count, char **names) {
  int count = names_count / 2;
  TF_Output inputs[MOST], outputs[MOST];
  TF_Tensor *given[MOST] = {NULL}, *made[MOST] = {NULL};
  for (int i = 0; i < count; i++) {
    inputs[i] = tensor_named(model, names[2 * i]);
    outputs[i] = tensor_named(model, names[2 * i + 1]);
    if (i > 0) made[i] = new_state(model, inputs[i]);
  }
  for (int32_t number; scanf("%" SCNd32, &number) == 1;) {
    if (made[0]) TF_DeleteTensor(made[0]);
    memcpy(given, made, sizeof given);
    given[0] = new_token(number);
    run(model, inputs, given, count, outputs, made, count);
    for (int i = 0; i < count; i++) TF_DeleteTensor(given[i]);
  }
  if (!made[0]) fail("standard input", "there are no numbers of tokens");
  for (int i = 0; i < count; i++) print_and_delete(made[i]);
}

static void text(const Model *model, int names_count, char **names) {
  int count = names_count - 2;
  TF_Output input = tensor_named(model, names[0]), outputs[MOST];
  for (int i = 0; i < count; i++) outputs[i] = tensor_named(model, names[i + 2]);
  TF_Tensor *given = new_text(names[1]), *made[MOST] = {NULL};
  run(model, &input, &given, 1, outputs, made, count);
  TF_DeleteTensor(given);
  for (int i = 0; i < count; i++) print_and_delete(made[i]);
}

int main(int count, char **arguments) {
  int names_count = count - 3;
  int streams = count > 1 && strcmp(arguments[1], "stream") == 0, texts = count > 1 && strcmp(arguments[1], "text") == 0;
  if (names_count < 2 || names_count > MOST || (streams ? names_count % 2 : !texts)) {
    fail("usage", "the head of saved_model.c says what to write");
  }
  Model model = open_model(arguments[2]);
  (streams ? stream : text)(&model, names_count, arguments + 3);
  close_model(&model);
  return EXIT_SUCCESS;
}
