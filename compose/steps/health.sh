# shellcheck shell=bash
# Waits until what was started is healthy, or says which service is not and why.

wait_until_healthy() {
    quietly "Waiting until everything is alive" healthy_in_time && return
    local container
    for container in $(started_containers); do
        is_healthy "$container" || explain "$container"
    done
    die "not everything is alive; 'docker compose --file compose/compose.yaml logs' has the rest"
}

patience=180

healthy_in_time() {
    local container deadline=$((SECONDS + patience))
    for container in $(started_containers); do
        until is_healthy "$container"; do
            ((SECONDS < deadline)) || return 1
            keeps_dying "$container" && return 1
            sleep 0.5
        done
    done
}

started_containers() {
    compose ps --all --quiet "${services[@]}"
}

is_healthy() {
    [[ $(docker inspect --format '{{.State.Health.Status}}' "$1") == healthy ]]
}

# No service of ours ends because another one is missing, so more patience would not help.
keeps_dying() {
    [[ $(docker inspect --format '{{.State.Status}} {{.RestartCount}}' "$1") =~ ^(restarting|exited)\ ([4-9]|[0-9]{2,})$ ]]
}

explain() {
    local format='{{index .Config.Labels "com.docker.compose.service"}}: {{.State.Status}}, {{.State.Health.Status}},'
    docker inspect --format "$format restarted {{.RestartCount}} times; its last words:" "$1" >&2
    docker logs --tail 25 "$1" 2>&1 | sed 's/^/  | /' >&2
}

# A queue that was declared before its node had met the others gets its further members a moment later.
wait_until_replicated() {
    quietly "Waiting until each queue has three members" replicated_in_time || die "not every queue has three members"
}

replicated_in_time() {
    local deadline=$((SECONDS + patience))
    until compose exec -T rabbitmq bash -c "$each_queue_has_three"; do
        ((SECONDS < deadline)) || return 1
        sleep 0.5
    done
}

each_queue_has_three='rabbitmqctl --quiet --formatter json list_queues --vhost postroom type online |
    jq --exit-status "map(select(.type == \"quorum\").online | length) | length > 0 and all(. == 3)"'
