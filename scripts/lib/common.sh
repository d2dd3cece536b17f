# Shared by the scripts: where things are, and installing what is missing.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
node_version=24.21.0
openclaw_version=2026.9.6

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# Installs distribution packages unless a program or file they bring is there: need PACKAGE PROOF.
need() {
  local package=$1 proof=$2
  if command -v "$proof" >/dev/null 2>&1 || [ -e "$proof" ]; then return; fi
  say "installing $package"
  [ -n "${apt_updated:-}" ] || { apt-get update -qq >/dev/null; apt_updated=1; }
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$package" >/dev/null
}

# What building needs: a C++ compiler, make, libclang for RocksDB's bindings, and a compiler cache, which
# lets the two build profiles share RocksDB's objects.
need_build_tools() {
  command -v cargo >/dev/null 2>&1 || die "Rust is missing: install it from https://rustup.rs"
  need g++ g++
  need make make
  need ccache ccache
  # libclang-cpp, which the C++ compiler may have brought along, does not do.
  compgen -G '/usr/lib/llvm-*/lib/libclang[.-][s0-9]*' >/dev/null || need libclang-dev /nonexistent
  export CXX="ccache g++" CCACHE_BASEDIR="$HOME"
}

# Node.js and OpenClaw into a folder of the project, never globally.
install_openclaw() {
  local into=$1
  [ -f "$into/openclaw-$openclaw_version" ] && return
  need npm npm
  local machine
  case $(uname -m) in
    x86_64) machine=x64 ;;
    aarch64) machine=arm64 ;;
    *) die "no Node.js $node_version for $(uname -m)" ;;
  esac
  say "installing Node.js $node_version and OpenClaw $openclaw_version into $into"
  mkdir -p "$into"
  echo '{"private": true}' >"$into/package.json"
  (cd "$into" && npm install --ignore-scripts --no-audit --no-fund --loglevel=error \
    "node-linux-$machine@$node_version" "openclaw@$openclaw_version" >&2) ||
    die "npm did not install OpenClaw"
  ln -sfn "node_modules/node-linux-$machine/bin/node" "$into/node"
  # Its first run finishes the installation, which agents' own users may not.
  HOME=$(mktemp -d) "$into/node" "$into/node_modules/openclaw/openclaw.mjs" --version >/dev/null ||
    die "OpenClaw does not run"
  touch "$into/openclaw-$openclaw_version"
}
