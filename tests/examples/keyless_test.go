//go:build linux

package examples

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
	"gopkg.in/yaml.v3"
)

func keylessWorkflow(t *testing.T) workflow {
	t.Helper()
	var w workflow
	must(t, yaml.Unmarshal([]byte(readExample(t, "github-actions", "keyless.yml")), &w))
	return w
}

func TestTheKeylessJobHasAnIdentityAndNoSecret(t *testing.T) {
	w := keylessWorkflow(t)
	if w.Permissions["id-token"] != "write" || w.Permissions["contents"] != "read" || len(w.Permissions) != 2 {
		t.Errorf("permissions %v", w.Permissions)
	}
	text := readExample(t, "github-actions", "keyless.yml")
	for _, word := range []string{"{{ secrets", "OPENAI_API_KEY"} {
		if strings.Contains(text, word) {
			t.Errorf("the job mentions %s", word)
		}
	}
	start := w.step(t, "Start the gate").Run
	for _, flag := range []string{"--github-oidc ", "--oidc-audience ", "--identity-provider-id ", "--service-account-id ", "--github-oidc-request-url "} {
		if !strings.Contains(start, flag) {
			t.Errorf("the gate is started without %s", flag)
		}
	}
}

func TestTheKeylessJobsScriptsAreSound(t *testing.T) {
	bash := needsTool(t, "bash")
	for _, step := range keylessWorkflow(t).Jobs["codex"].Steps {
		if strings.Contains(step.Run, "${{") {
			t.Errorf("%s: an expression in a script becomes code", step.Name)
		}
		cmd := command(t, nil, bash, "-n")
		cmd.Stdin = strings.NewReader(step.Run)
		if out, code := run(t, cmd); code != 0 {
			t.Errorf("%s: %s", step.Name, out)
		}
	}
}

// pod is what the test looks at in pod.yaml.
type pod struct {
	Kind string            `yaml:"kind"`
	Data map[string]string `yaml:"data"`
	Spec struct {
		Automount       *bool          `yaml:"automountServiceAccountToken"`
		SecurityContext map[string]any `yaml:"securityContext"`
		InitContainers  []container    `yaml:"initContainers"`
		Containers      []container    `yaml:"containers"`
	} `yaml:"spec"`
}

type container struct {
	Name            string         `yaml:"name"`
	SecurityContext map[string]any `yaml:"securityContext"`
	VolumeMounts    []struct {
		Name string `yaml:"name"`
	} `yaml:"volumeMounts"`
}

func TestThePodsAgentHasNoIdentityAndItsGatesConfigIsValid(t *testing.T) {
	decoder := yaml.NewDecoder(bytes.NewReader([]byte(readExample(t, "kubernetes", "pod.yaml"))))
	kinds := make(map[string]pod)
	for {
		var p pod
		err := decoder.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		kinds[p.Kind] = p
	}
	spec := kinds["Pod"].Spec
	if spec.Automount == nil || *spec.Automount || spec.SecurityContext["runAsNonRoot"] != true {
		t.Errorf("the pod's own token is mounted, or it may be root: %v", spec.SecurityContext)
	}
	for _, c := range append(spec.InitContainers, spec.Containers...) {
		if c.SecurityContext["allowPrivilegeEscalation"] != false || c.SecurityContext["readOnlyRootFilesystem"] != true {
			t.Errorf("container %s: %v", c.Name, c.SecurityContext)
		}
		for _, mount := range c.VolumeMounts {
			if mount.Name == "identity" && c.Name != "gate" {
				t.Errorf("container %s has the identity", c.Name)
			}
		}
	}
	config := kinds["ConfigMap"].Data["Caddyfile"]
	if formatted := string(caddyfile.Format([]byte(config))); formatted != config {
		t.Errorf("caddy fmt would make this of it:\n%s", formatted)
	}
	cmd := command(t, nil, gatetest.CaddyBinary, "adapt", "--adapter", "caddyfile", "--config", "-")
	cmd.Stdin = strings.NewReader(config)
	if out, code := run(t, cmd); code != 0 || !strings.Contains(out, `"upstream_identity"`) {
		t.Errorf("exit code %d\n%s", code, out)
	}
}
