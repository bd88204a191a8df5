# shellcheck shell=bash
# compose/.env: ports and secrets. Written on the first run, later only completed; a variable that is set outside wins.

settings_file=$compose_folder/.env

ensure_settings() {
    umask 077
    : >> "$settings_file"
    chmod 600 "$settings_file"
    # An editor may have left the last line open.
    [[ -z $(tail -c 1 "$settings_file") ]] || echo >> "$settings_file"
    local name
    while read -r name value; do
        grep -q "^$name=" "$settings_file" || echo "$name=${value:-$(new_secret)}" >> "$settings_file"
        [[ $(setting "$name") =~ ^[A-Za-z0-9_.-]+$ ]] ||
            die "$name may hold letters, digits, '_', '-' and '.' only, because it stands in addresses"
    done < <(known_settings)
    umask 022
}

# Name and default; without a default it is a secret, made here.
known_settings() {
    cat <<'TEXT'
POSTROOM_WEB_PORT 8080
POSTROOM_WEB_2_PORT 8081
POSTROOM_MAIL_PORT 18026
POSTROOM_SMTP_PORT 18025
POSTROOM_AMQP_PORT 18672
POSTROOM_MANAGEMENT_PORT 18673
POSTROOM_AMQP_2_PORT 18674
POSTROOM_MANAGEMENT_2_PORT 18675
POSTROOM_AMQP_3_PORT 18676
POSTROOM_MANAGEMENT_3_PORT 18677
POSTROOM_POSTGRES_PORT 18432
POSTROOM_REDIS_CACHE_PORT 18379
POSTROOM_REDIS_DURABLE_PORT 18380
POSTROOM_BROKER_PASSWORD_OPERATOR
POSTROOM_BROKER_PASSWORD_WEB
POSTROOM_BROKER_PASSWORD_EMAIL_WORKER
POSTROOM_BROKER_PASSWORD_ORDER_WORKER
POSTROOM_BROKER_PASSWORD_PDF_REPORT
POSTROOM_BROKER_PASSWORD_VIDEO_WORKER
POSTROOM_BROKER_PASSWORD_NOOP_WORKER
POSTROOM_BROKER_PASSWORD_DISPATCHER
POSTROOM_BROKER_PASSWORD_PARTNER
POSTROOM_ERLANG_COOKIE
POSTROOM_DATABASE_PASSWORD
POSTROOM_REDIS_PASSWORD_CACHE
POSTROOM_REDIS_PASSWORD_DURABLE
POSTROOM_LINKS_SECRET
POSTROOM_TOKEN_ALICE
POSTROOM_TOKEN_BOB
TEXT
}

new_secret() {
    od -An -N24 -tx1 /dev/urandom | tr -d ' \n'
}

# What a setting is now: the environment over the file, as compose itself reads them.
setting() {
    if [[ -n ${!1:-} ]]; then
        echo "${!1}"
    elif [[ -f $settings_file ]]; then
        sed -n "s/^$1=//p" "$settings_file" | tail -n 1
    fi
}

compose_project() {
    local name
    name=$(setting COMPOSE_PROJECT_NAME)
    echo "${name:-postroom}"
}
