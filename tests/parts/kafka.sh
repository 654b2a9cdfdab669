# Apache Kafka of the tests: the broker's jars from Maven Central, and a Java to
# run them. Sourced by tests/run.sh.
#
# kafka.jars holds what org.apache.kafka:kafka_2.13 needs at runtime, as Maven
# resolves it, and log4j-slf4j-impl, without which it logs nothing: a SHA-256
# sum and a path in the repository a line. With these fixed, neither Maven nor
# Kafka's own archive (three times as large) is needed. kcat, the client that
# reads topics, is one of Debian's packages: see debian.sh.

KAFKA_VERSION=4.3.1
KAFKA_JAVA=17
MAVEN_CENTRAL=${MAVEN_CENTRAL:-https://repo1.maven.org/maven2}

kafka_root=$GREYPIT_CACHE/parts/kafka

bring_kafka() {
    bring_java || return
    if ! kafka_complete "$kafka_root"; then
        local scratch
        scratch=$(mktemp -d "$GREYPIT_CACHE/unpack.XXXXXX")
        if ! download_kafka "$scratch"; then
            rm -rf "$scratch"
            without "the jars of Apache Kafka $KAFKA_VERSION could not be had from $MAVEN_CENTRAL" || return
        fi
        chmod 755 "$scratch"
        rm -rf "$kafka_root"
        mkdir -p "$GREYPIT_CACHE/parts"
        mv "$scratch" "$kafka_root"
    fi
    local version
    version=$(java -Xshare:auto -XX:TieredStopAtLevel=1 -cp "$kafka_root/*" kafka.Kafka --version) ||
        without "Apache Kafka $KAFKA_VERSION does not run with $(java_version)" || return
    exercised "Apache Kafka ${version%% *}, $(java_version)"
}

bring_java() {
    if ! java_fits && ! command -v java >/dev/null && command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
        apt_update || true # the lists may be good enough
        DEBIAN_FRONTEND=noninteractive apt-get "${apt_options[@]}" install -y --no-install-recommends \
            "openjdk-$KAFKA_JAVA-jre-headless" || true
    fi
    java_fits || without "Java $KAFKA_JAVA or newer is not installed (here: $(java_version))"
}

java_version() {
    { java -version 2>&1 || echo none; } | sed -n '1s/ [0-9-]*$//;1s/"//g;1p'
}

java_fits() {
    local major
    major=$(java -version 2>&1 | sed -n '1s/[^"]*"\([0-9]*\).*/\1/p') || return
    [ "${major:-0}" -ge "$KAFKA_JAVA" ]
}

# Every jar is in the folder, whole, and nothing else is.
kafka_complete() (
    cd "$1" 2>/dev/null || return
    [ "$(find . -type f | wc -l)" = "$(wc -l <"$OLDPWD/tests/parts/kafka.jars")" ] || return
    sed 's,  .*/,  ,' "$OLDPWD/tests/parts/kafka.jars" | sha256sum --check --quiet --strict >/dev/null 2>&1
)

download_kafka() {
    local folder=$1
    echo "downloading $(wc -l <tests/parts/kafka.jars) jars from $MAVEN_CENTRAL"
    sed "s,.*  \(.*\),url = \"$MAVEN_CENTRAL/\1\"\nremote-name," tests/parts/kafka.jars |
        (cd "$folder" && curl --no-progress-meter --fail --location --retry 3 --max-time 600 \
            --parallel --parallel-max 8 --config -) || return
    kafka_complete "$folder" || { echo 'a jar is not what tests/parts/kafka.jars says' && return 1; }
}
