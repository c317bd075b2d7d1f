//go:build linux

package examples

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
	"gopkg.in/yaml.v3"
)

// composeFile is what the tests look at in compose.yaml.
type composeFile struct {
	Services map[string]struct {
		Build struct {
			Context    string `yaml:"context"`
			Dockerfile string `yaml:"dockerfile"`
		} `yaml:"build"`
		User        string            `yaml:"user"`
		NetworkMode string            `yaml:"network_mode"`
		Environment map[string]string `yaml:"environment"`
		Ports       []any             `yaml:"ports"`
		Volumes     []string          `yaml:"volumes"`
		ReadOnly    bool              `yaml:"read_only"`
		CapDrop     []string          `yaml:"cap_drop"`
		SecurityOpt []string          `yaml:"security_opt"`
	} `yaml:"services"`
}

func readCompose(t *testing.T) composeFile {
	t.Helper()
	var compose composeFile
	must(t, yaml.Unmarshal([]byte(readExample(t, "container", "compose.yaml")), &compose))
	return compose
}

func TestTheAgentsContainerGetsTheTokenAndNotTheKey(t *testing.T) {
	compose := readCompose(t)
	const key, token = "/etc/responses-proxy-gate/key:/run/secrets/key:ro", "/etc/responses-proxy-gate/token:/run/secrets/token:ro"
	if got := compose.Services["agent"].Volumes; !slices.Equal(got, []string{token}) {
		t.Errorf("the agent gets %q", got)
	}
	if got := compose.Services["gate"].Volumes; !slices.Contains(got, key) || !slices.Contains(got, token) {
		t.Errorf("the gate gets %q", got)
	}
	for name, service := range compose.Services {
		for _, volume := range service.Volumes {
			// A mounted file would stay what it was when the container started.
			if from, _, _ := strings.Cut(volume, ":"); strings.HasPrefix(from, "/") && filepath.Dir(from) != "/etc/responses-proxy-gate" {
				t.Errorf("%s: %s is no directory that the comment has made", name, from)
			}
		}
		if len(service.Environment) > 0 {
			t.Errorf("%s: an environment is no place for secrets, and nothing else needs one: %v", name, service.Environment)
		}
		if !slices.Contains(service.CapDrop, "ALL") || !slices.Contains(service.SecurityOpt, "no-new-privileges:true") {
			t.Errorf("%s keeps privileges", name)
		}
	}
	if userOf(t, compose, "gate") == userOf(t, compose, "agent") {
		t.Error("gate and agent are the same user")
	}
}

// userOf is the user of a service, which the gate has from its image.
func userOf(t *testing.T, compose composeFile, service string) string {
	t.Helper()
	if user := compose.Services[service].User; user != "" {
		return user
	}
	return instruction(t, "USER")[0]
}

func TestOnlyTheAgentReachesTheGateOfTheContainer(t *testing.T) {
	compose := readCompose(t)
	for name, service := range compose.Services {
		// It is neither's own, or it would end with that one, and strand the other.
		if want := "service:network"; name != "network" && service.NetworkMode != want {
			t.Errorf("the network of %s is %q, want %s", name, service.NetworkMode, want)
		}
		if len(service.Ports) > 0 {
			t.Errorf("%s has its ports published: %v", name, service.Ports)
		}
	}
	if len(compose.Services) != 3 || len(compose.Services["network"].Volumes) > 0 {
		t.Errorf("the network is more than that: %+v", compose.Services)
	}
	var config struct {
		Admin struct {
			Listen string `json:"listen"`
		} `json:"admin"`
		Apps struct {
			HTTP struct {
				Servers map[string]struct {
					Listen []string `json:"listen"`
				} `json:"servers"`
			} `json:"http"`
		} `json:"apps"`
	}
	out, err := command(t, nil, gatetest.CaddyBinary, "adapt", "--config", filepath.Join(mustAbs(t, examplesDir), "container", "Caddyfile")).Output()
	must(t, err)
	must(t, json.Unmarshal(out, &config))
	if socket := "unix//run/gate/admin.sock"; config.Admin.Listen != socket {
		t.Errorf("the admin endpoint is %q, want %s, in the volume that the gate has for itself", config.Admin.Listen, socket)
	}
	if slices.ContainsFunc(compose.Services["agent"].Volumes, func(volume string) bool { return strings.HasPrefix(volume, "run:") }) {
		t.Error("the agent can reach the admin endpoint")
	}
	for _, server := range config.Apps.HTTP.Servers {
		if !slices.Equal(server.Listen, []string{"127.0.0.1:18080"}) {
			t.Errorf("the gate listens on %q, want 127.0.0.1:18080 only", server.Listen)
		}
	}
}

// instruction is the arguments of the last such instruction in the Containerfile.
func instruction(t *testing.T, name string) []string {
	t.Helper()
	found := regexp.MustCompile(`(?m)^`+name+` (.*)$`).FindAllStringSubmatch(readExample(t, "container", "Containerfile"), -1)
	if found == nil {
		t.Fatalf("the Containerfile has no %s", name)
	}
	arguments := found[len(found)-1][1]
	var list []string
	if json.Unmarshal([]byte(arguments), &list) == nil {
		return list
	}
	return strings.Fields(arguments)
}

func TestTheContainerfileNamesFilesThatExist(t *testing.T) {
	build := readCompose(t).Services["gate"].Build
	root := filepath.Join(examplesDir, "container", build.Context)
	for _, name := range []string{build.Dockerfile, "xcaddy.sh", instruction(t, "COPY")[0]} {
		if _, err := os.Stat(filepath.Join(root, name)); err != nil {
			t.Error(err)
		}
	}
	if !strings.Contains(readExample(t, "container", "Containerfile"), "\nRUN ./xcaddy.sh\n") {
		t.Error("the image is not built by ./xcaddy.sh")
	}
	if copied, config := instruction(t, "COPY")[1], instruction(t, "CMD")[2]; copied != config {
		t.Errorf("the config is copied to %s and read from %s", copied, config)
	}
}

// containerCommand is what the image runs, with the files of a container in dir.
func containerCommand(t *testing.T, dir, upstreamURL string, port int) []string {
	t.Helper()
	config := filepath.Join(dir, "Caddyfile")
	writeFile(t, config, replaceAll(t, readExample(t, "container", "Caddyfile"),
		"https://api.openai.com", upstreamURL, "http://:18080 {", fmt.Sprintf("http://:%d {", port),
		"/run/secrets/key", filepath.Join(dir, "secrets"), "/run/secrets/token", filepath.Join(dir, "secrets"),
		"/run/gate", filepath.Join(dir, "run")), 0, 0o644)
	makeDir(t, filepath.Join(dir, "run"), nobody, 0o755)
	words := append(instruction(t, "ENTRYPOINT"), instruction(t, "CMD")...)
	return strings.Split(replaceAll(t, strings.Join(words, "\n"), "/usr/bin/caddy", gatetest.CaddyBinary, "/etc/caddy/Caddyfile", config), "\n")
}

// As an unprivileged user without a home, who can write nowhere, as in the
// container.
func TestTheContainersGateServesFromAReadOnlyFileSystem(t *testing.T) {
	u, trust := newTLSUpstream(t)
	dir, port := newDir(t), freePort(t, false)
	words := containerCommand(t, dir, u.URL, port)
	writeFile(t, filepath.Join(dir, "secrets", "openai-api-key"), operatorKey+"\n", nobody, 0o400)
	writeFile(t, filepath.Join(dir, "secrets", "gate-token"), gateToken+"\n", nobody, 0o440)
	validate := as(command(t, []string{"HOME=/", trust}, gatetest.CaddyBinary, "validate", "--config", filepath.Join(dir, "Caddyfile")), nobody)
	if out, code := run(t, validate); code != 0 {
		t.Fatalf("caddy validate: exit code %d\n%s", code, out)
	}

	notify := newNotifySocket(t)
	gate := start(t, as(command(t, []string{"HOME=/", trust, notify.env()}, words[0], words[1:]...), nobody))
	notify.await(t, gate, "READY=1")
	serves(t, u, port, gateToken)
	gate.complainsOfNothing(t)
}

// Docker's own mode for secrets.
func TestASecretThatEveryUserMayReadStopsTheContainersGate(t *testing.T) {
	for _, name := range []string{"openai-api-key", "gate-token"} {
		t.Run(name, func(t *testing.T) {
			dir := newDir(t)
			words := containerCommand(t, dir, "https://127.0.0.1:1", freePort(t, false))
			writeFile(t, filepath.Join(dir, "secrets", "openai-api-key"), operatorKey, nobody, 0o400)
			writeFile(t, filepath.Join(dir, "secrets", "gate-token"), gateToken, nobody, 0o440)
			must(t, os.Chmod(filepath.Join(dir, "secrets", name), 0o444))
			out, code := run(t, as(command(t, []string{"HOME=/"}, words[0], words[1:]...), nobody))
			if code != 1 || !strings.Contains(out, "every user can read it") {
				t.Errorf("exit code %d, want a refusal:\n%s", code, out)
			}
		})
	}
}

func mustAbs(t *testing.T, path string) string {
	t.Helper()
	abs, err := filepath.Abs(path)
	must(t, err)
	return abs
}

// What is built tomorrow is built of the same.
func TestTheBasesOfTheImagesArePinned(t *testing.T) {
	pinned := regexp.MustCompile(`@sha256:[0-9a-f]{64}( AS \w+)?$`)
	published, err := os.ReadFile(filepath.Join("..", "..", "packaging", "Containerfile"))
	must(t, err)
	bases := 0
	for line := range strings.Lines(readExample(t, "container", "Containerfile") + string(published)) {
		line = strings.TrimSpace(line)
		if (strings.HasPrefix(line, "FROM ") && line != "FROM ${BASE}") || strings.HasPrefix(line, "ARG BASE=") {
			bases++
			if !pinned.MatchString(line) {
				t.Errorf("not pinned by its digest: %s", line)
			}
		}
	}
	if bases != 3 {
		t.Errorf("%d bases, want 3", bases)
	}
}
