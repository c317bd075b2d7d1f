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
		Secrets     []struct {
			Source string `yaml:"source"`
			UID    string `yaml:"uid"`
			Mode   int    `yaml:"mode"`
		} `yaml:"secrets"`
		ReadOnly    bool     `yaml:"read_only"`
		CapDrop     []string `yaml:"cap_drop"`
		SecurityOpt []string `yaml:"security_opt"`
	} `yaml:"services"`
	Secrets map[string]struct {
		File string `yaml:"file"`
	} `yaml:"secrets"`
}

func readCompose(t *testing.T) composeFile {
	t.Helper()
	var compose composeFile
	must(t, yaml.Unmarshal([]byte(readExample(t, "container", "compose.yaml")), &compose))
	return compose
}

// secretsOf are the names of the secrets that a service gets.
func (c composeFile) secretsOf(service string) []string {
	var names []string
	for _, secret := range c.Services[service].Secrets {
		names = append(names, secret.Source)
	}
	return names
}

func TestTheAgentsContainerGetsTheTokenAndNotTheKey(t *testing.T) {
	compose := readCompose(t)
	if got := compose.secretsOf("gate"); !slices.Equal(got, []string{"openai-api-key", "gate-token"}) {
		t.Errorf("the gate gets the secrets %q", got)
	}
	if got := compose.secretsOf("agent"); !slices.Equal(got, []string{"gate-token"}) {
		t.Errorf("the agent gets the secrets %q", got)
	}
	for name, service := range compose.Services {
		for _, secret := range service.Secrets {
			if compose.Secrets[secret.Source].File == "" {
				t.Errorf("%s: the secret %s is not declared", name, secret.Source)
			}
			if secret.Mode != 0o400 {
				t.Errorf("%s: the secret %s has mode %04o, want 0400", name, secret.Source, secret.Mode)
			}
			if uid, _, _ := strings.Cut(userOf(t, compose, name), ":"); secret.UID != uid {
				t.Errorf("%s: the secret %s is for user %s, want %s", name, secret.Source, secret.UID, uid)
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
	if got := compose.Services["agent"].NetworkMode; got != "service:gate" {
		t.Errorf("the agent's network is %q, want that of the gate", got)
	}
	if ports := compose.Services["gate"].Ports; len(ports) > 0 {
		t.Errorf("the gate has its ports published: %v", ports)
	}
	var config struct {
		Admin struct {
			Disabled bool `json:"disabled"`
		} `json:"admin"`
		Apps struct {
			HTTP struct {
				Servers map[string]struct {
					Listen []string `json:"listen"`
				} `json:"servers"`
			} `json:"http"`
		} `json:"apps"`
	}
	out, err := command(t, nil, caddyBinary, "adapt", "--config", filepath.Join(mustAbs(t, examplesDir), "container", "Caddyfile")).Output()
	must(t, err)
	must(t, json.Unmarshal(out, &config))
	if !config.Admin.Disabled {
		t.Error("the agent can reach an admin endpoint")
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
	if got := strings.Join(instruction(t, "RUN"), " "); got != "./xcaddy.sh" {
		t.Errorf("the image is built by %q, want ./xcaddy.sh", got)
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
		"https://api.openai.com", upstreamURL, "http://:18080 {", fmt.Sprintf("http://:%d {", port), "/run/secrets", filepath.Join(dir, "secrets")), 0, 0o644)
	words := append(instruction(t, "ENTRYPOINT"), instruction(t, "CMD")...)
	return strings.Split(replaceAll(t, strings.Join(words, "\n"), "/usr/bin/caddy", caddyBinary, "/etc/caddy/Caddyfile", config), "\n")
}

// As an unprivileged user without a home, who can write nowhere, as in the
// container.
func TestTheContainersGateServesFromAReadOnlyFileSystem(t *testing.T) {
	u, trust := newTLSUpstream(t)
	dir, port := newDir(t), freePort(t, false)
	words := containerCommand(t, dir, u.URL, port)
	writeFile(t, filepath.Join(dir, "secrets", "openai-api-key"), operatorKey+"\n", nobody, 0o400)
	writeFile(t, filepath.Join(dir, "secrets", "gate-token"), gateToken+"\n", nobody, 0o440)
	adaptsAndValidates(t, []string{trust}, filepath.Join(dir, "Caddyfile"))

	notify := newNotifySocket(t)
	gate := start(t, as(command(t, []string{"HOME=/", trust, notify.env()}, words[0], words[1:]...), nobody))
	notify.await(t, gate, "READY=1")
	serves(t, u, port, gateToken)
	gate.stop(t)
	for _, complaint := range []string{`"level":"error"`, "read-only", "permission denied"} {
		if strings.Contains(gate.out.String(), complaint) {
			t.Errorf("the gate complains (%s):\n%s", complaint, gate.out.String())
		}
	}
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
