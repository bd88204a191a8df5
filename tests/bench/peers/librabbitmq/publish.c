// Publishes no-op jobs, as docs/messages.md has them, with a number of confirms outstanding; prints when it began and ended.
// publish URL EXCHANGE ROUTING_KEY BYTES WINDOW COUNT
#include <amqp.h>
#include <amqp_tcp_socket.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static void must(int fine, const char *what) {
  if (!fine) {
    fprintf(stderr, "publish: %s\n", what);
    exit(1);
  }
}

static double now(void) {
  struct timeval time;
  gettimeofday(&time, NULL);
  return (double)time.tv_sec + (double)time.tv_usec / 1e6;
}

// Waits for one frame of the broker's, and returns how many publishes it confirms.
static uint64_t confirmed(amqp_connection_state_t connection, uint64_t *open) {
  amqp_frame_t frame;
  must(amqp_simple_wait_frame(connection, &frame) == AMQP_STATUS_OK, "wait for a confirm");
  must(frame.frame_type == AMQP_FRAME_METHOD && frame.payload.method.id == AMQP_BASIC_ACK_METHOD, "not an ack");
  const amqp_basic_ack_t *ack = frame.payload.method.decoded;
  // In the order of publishing on one queue, so that counting will do.
  uint64_t count = ack->multiple ? ack->delivery_tag - *open + 1 : 1;
  *open += count;
  amqp_maybe_release_buffers(connection);
  return count;
}

int main(int argc, char **argv) {
  must(argc == 7, "publish URL EXCHANGE ROUTING_KEY BYTES WINDOW COUNT");
  struct amqp_connection_info info;
  must(amqp_parse_url(argv[1], &info) == AMQP_STATUS_OK, "read the URL");
  const char *exchange = argv[2], *routing_key = argv[3];
  size_t bytes = strtoul(argv[4], NULL, 10);
  uint64_t window = strtoull(argv[5], NULL, 10), count = strtoull(argv[6], NULL, 10);

  amqp_connection_state_t connection = amqp_new_connection();
  must(amqp_socket_open(amqp_tcp_socket_new(connection), info.host, info.port) == AMQP_STATUS_OK, "connect");
  amqp_rpc_reply_t login =
      amqp_login(connection, info.vhost, 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, info.user, info.password);
  must(login.reply_type == AMQP_RESPONSE_NORMAL, "log in");
  must(amqp_channel_open(connection, 1) != NULL, "open a channel");
  must(amqp_confirm_select(connection, 1) != NULL, "ask for confirms");

  char *body = malloc(bytes);
  must(body != NULL, "memory");
  for (size_t place = 0; place < bytes; place++) body[place] = 'x';
  amqp_table_entry_t headers[] = {
      {amqp_cstring_bytes("attempt"), {.kind = AMQP_FIELD_KIND_I64, .value.i64 = 1}},
      {amqp_cstring_bytes("replays"), {.kind = AMQP_FIELD_KIND_I64, .value.i64 = 0}},
  };
  amqp_basic_properties_t properties = {
      ._flags = AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_CONTENT_TYPE_FLAG | AMQP_BASIC_MESSAGE_ID_FLAG |
                AMQP_BASIC_TYPE_FLAG | AMQP_BASIC_TIMESTAMP_FLAG | AMQP_BASIC_APP_ID_FLAG | AMQP_BASIC_HEADERS_FLAG,
      .delivery_mode = AMQP_DELIVERY_PERSISTENT,
      .content_type = amqp_cstring_bytes("application/json"),
      .type = amqp_cstring_bytes("noop.run"),
      .app_id = amqp_cstring_bytes("noop-worker"),
      .headers = {.num_entries = 2, .entries = headers},
  };
  char id[48];
  amqp_bytes_t message = {.len = bytes, .bytes = body};

  uint64_t outstanding = 0, open = 1;
  double begin = now();
  for (uint64_t sent = 0; sent < count; sent++) {
    while (outstanding >= window) outstanding -= confirmed(connection, &open);
    // Of the length and form of a UUID, and no two alike.
    snprintf(id, sizeof id, "00000000-0000-7000-8000-%012llx", (unsigned long long)sent);
    properties.message_id = amqp_cstring_bytes(id);
    properties.timestamp = (uint64_t)time(NULL);
    int status = amqp_basic_publish(connection, 1, amqp_cstring_bytes(exchange), amqp_cstring_bytes(routing_key), 1, 0,
                                    &properties, message);
    must(status == AMQP_STATUS_OK, "publish");
    outstanding++;
  }
  while (outstanding > 0) outstanding -= confirmed(connection, &open);
  printf("{\"begin\": %.6f, \"end\": %.6f}\n", begin, now());

  amqp_connection_close(connection, AMQP_REPLY_SUCCESS);
  amqp_destroy_connection(connection);
  free(body);
  return 0;
}
