# The S3 server of the tests: versitygw, a gateway of one Go program over a
# folder. Sourced by tests/run.sh.
#
# What was checked of v1.8.0 (tests/real/parts.rs goes on checking it):
# PutObject and CompleteMultipartUpload with If-None-Match: * give 412 where an
# object is; of many writers at once one wins; metadata of the user is kept;
# a repeated CompleteMultipartUpload of the same upload gives 200 again. A
# body whose hash is signed is refused when it comes in short, one that is
# signed as UNSIGNED-PAYLOAD is stored as far as it came.

S3_SERVER=github.com/versity/versitygw
S3_SERVER_VERSION=v1.8.0

build_s3_server() {
    local bin=$GREYPIT_CACHE/parts/bin
    if [ "$(cat "$bin/versitygw.version" 2>/dev/null)" != "$S3_SERVER_VERSION" ]; then
        if ! command -v go >/dev/null; then
            without "Go is not installed ($S3_SERVER is built with it)" || return
        fi
        mkdir -p "$bin"
        # Outside of any module; with the Go that is here.
        if ! (cd "$bin" && GOBIN=$bin GOFLAGS=-mod=mod go install -trimpath "$S3_SERVER/cmd/versitygw@$S3_SERVER_VERSION"); then
            without "$S3_SERVER $S3_SERVER_VERSION did not build with $(go version)" || return
        fi
        echo "$S3_SERVER_VERSION" >"$bin/versitygw.version"
    fi
    exercised "versitygw $S3_SERVER_VERSION"
}
