//go:build linux

package examples

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
	"gopkg.in/yaml.v3"
)

// workflow is what the tests look at in codex.yml.
type workflow struct {
	Permissions map[string]string `yaml:"permissions"`
	Defaults    struct {
		Run struct {
			Shell string `yaml:"shell"`
		} `yaml:"run"`
	} `yaml:"defaults"`
	Env  map[string]string `yaml:"env"`
	Jobs map[string]struct {
		Env   map[string]string `yaml:"env"`
		Steps []step            `yaml:"steps"`
	} `yaml:"jobs"`
}

type step struct {
	Name string            `yaml:"name"`
	If   string            `yaml:"if"`
	Uses string            `yaml:"uses"`
	With map[string]string `yaml:"with"`
	Env  map[string]string `yaml:"env"`
	Run  string            `yaml:"run"`
}

func readWorkflow(t *testing.T) workflow {
	t.Helper()
	var w workflow
	must(t, yaml.Unmarshal([]byte(readExample(t, "github-actions", "codex.yml")), &w))
	if len(w.Jobs["codex"].Steps) == 0 || w.Defaults.Run.Shell != "bash" {
		t.Fatal("this is not the workflow that the tests know")
	}
	return w
}

func (w workflow) step(t *testing.T, name string) step {
	t.Helper()
	for _, step := range w.Jobs["codex"].Steps {
		if step.Name == name {
			return step
		}
	}
	t.Fatalf("the job has no step %q", name)
	return step{}
}

func TestTheJobsScriptsAreSound(t *testing.T) {
	bash, shellcheck := needsTool(t, "bash"), needsTool(t, "shellcheck")
	for _, step := range readWorkflow(t).Jobs["codex"].Steps {
		if step.Run == "" {
			continue
		}
		if strings.Contains(step.Run, "${{") {
			t.Errorf("%s: an expression in a script becomes code", step.Name)
		}
		for _, check := range [][]string{{bash, "-n"}, {shellcheck, "--shell=bash", "--severity=style", "-"}} {
			cmd := command(t, nil, check[0], check[1:]...)
			cmd.Stdin = strings.NewReader(step.Run)
			if out, code := run(t, cmd); code != 0 {
				t.Errorf("%s: %s says:\n%s", step.Name, check[0], out)
			}
		}
	}
}

func TestTheJobShowsItsKeyToOneStepOnly(t *testing.T) {
	w := readWorkflow(t)
	if n := strings.Count(readExample(t, "github-actions", "codex.yml"), "secrets."); n != 1 {
		t.Errorf("secrets are mentioned %d times, want once", n)
	}
	if got := w.step(t, "Start the gate").Env; len(got) != 1 || got["OPENAI_API_KEY"] != "${{ secrets.OPENAI_API_KEY }}" {
		t.Errorf("the step that starts the gate has the environment %v", got)
	}
	if len(w.Permissions) != 1 || w.Permissions["contents"] != "read" {
		t.Errorf("the job's own token may do %v", w.Permissions)
	}
	for _, step := range w.Jobs["codex"].Steps {
		if strings.HasPrefix(step.Uses, "actions/checkout@") && step.With["persist-credentials"] != "false" {
			t.Error("checkout leaves the job's token in .git")
		}
	}
}

func TestTheJobsActionsArePinned(t *testing.T) {
	pinned := regexp.MustCompile(`^\s*- uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$`)
	for line := range strings.Lines(readExample(t, "github-actions", "codex.yml")) {
		if line = strings.TrimRight(line, "\n"); strings.Contains(line, "uses:") && !pinned.MatchString(line) {
			t.Errorf("not pinned by its commit, with its version beside it: %s", line)
		}
	}
}

// What runs as root with the key is what somebody has looked at.
func TestTheJobRunsAPinnedGate(t *testing.T) {
	w := readWorkflow(t)
	if !regexp.MustCompile(`^[0-9a-f]{40}$`).MatchString(w.Env["GATE_COMMIT"]) {
		t.Errorf("GATE_COMMIT is %q", w.Env["GATE_COMMIT"])
	}
	for _, step := range w.Jobs["codex"].Steps {
		if step.With["repository"] != "" && step.With["ref"] != "${{ env.GATE_COMMIT }}" {
			t.Errorf("%s is checked out at %q", step.With["repository"], step.With["ref"])
		}
		if strings.Contains(step.Run, "npm install") && !strings.Contains(step.Run, "--ignore-scripts") {
			t.Errorf("%s: packages run scripts of theirs as root", step.Name)
		}
	}
}

func TestTheJobTakesNoOtherReleaseThanThePinnedOne(t *testing.T) {
	j := newJob(t, "http://127.0.0.1:1")
	name := "caddy-responses-proxy-gate_9.9.9_linux_amd64"
	writeFile(t, filepath.Join(j.dir, name, "caddy"), "the gate", 0, 0o755)
	archive := filepath.Join(j.dir, name+".tar.gz")
	if out, code := run(t, command(t, nil, needsTool(t, "tar"), "-C", j.dir, "-czf", archive, name)); code != 0 {
		t.Fatal(out)
	}
	content, err := os.ReadFile(archive)
	must(t, err)
	// For the download and for the place it goes to.
	writeFile(t, filepath.Join(j.dir, "bin", "curl"), "#!/bin/sh\nexec cp "+archive+" .\n", 0, 0o755)
	writeFile(t, filepath.Join(j.dir, "bin", "install"), "#!/bin/sh\nexec cp \"$1\" "+j.dir+"/installed\n", 0, 0o755)
	for digest, wanted := range map[string]int{strings.Repeat("0", 64): 1, fmt.Sprintf("%x", sha256.Sum256(content)): 0} {
		out, code := j.run(t, "Download Caddy", "GATE_RELEASE=9.9.9", "GATE_SHA256="+digest)
		_, err := os.Stat(filepath.Join(j.dir, "installed"))
		if code != wanted || (err == nil) != (wanted == 0) {
			t.Errorf("digest %s: exit code %d, installed: %t\n%s", digest, code, err == nil, out)
		}
		_ = os.Remove(filepath.Join(j.dir, "installed"))
	}
}

func TestTheJobStopsTheGateThoughCodexHasRewrittenItsFile(t *testing.T) {
	u := newUpstream(t)
	j := newJob(t, u.URL)
	info := j.start(t)
	// Another process, which the step would otherwise take for the gate.
	other := start(t, as(command(t, nil, "sleep", "600"), nobody))
	rewrite := as(command(t, nil, "sh", "-c", `printf '{"port":1,"pid":%s,"auth_token":"x"}' "$1" >"$0"`, j.info, fmt.Sprint(other.PID())), nobody)
	if out, code := run(t, rewrite); code != 0 {
		t.Fatal(out)
	}
	if out, code := j.run(t, "Stop the gate"); code != 0 {
		t.Errorf("exit code %d\n%s", code, out)
	}
	if err := syscall.Kill(info.PID, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the gate still runs (%v)", err)
	}
	if err := syscall.Kill(other.PID(), 0); err != nil {
		t.Errorf("the step has ended another process: %v", err)
	}
	if out, code := run(t, as(command(t, nil, "cat", filepath.Join(j.dir, "gate.pid")), nobody)); code == 0 {
		t.Errorf("Codex can read, and so find, the recorded process: %s", out)
	}
}

func TestTheJobStopsTheGateWhateverHappens(t *testing.T) {
	steps := readWorkflow(t).Jobs["codex"].Steps
	if last := steps[len(steps)-1]; last.Name != "Stop the gate" || last.If != "always()" {
		t.Errorf("the last step is %q, if: %s", last.Name, last.If)
	}
}

// job runs steps of the workflow as the runner would, as root, with nobody for
// the user that another step makes.
type job struct {
	workflow
	dir, home, info string
	port            int
	env             []string
	key             string // of this job alone
}

// sudo does what the job asks of the real one: another user, and none of the
// caller's environment. Its paths come as arguments of Sprintf.
const sudo = `#!/bin/bash
path=%[1]q home=/root become=()
while [[ $1 == -* ]]; do
	case $1 in
	-H) shift ;;
	-u)
		[[ $2 == nobody ]] || exit 99
		home=%[2]q become=(setpriv --reuid 65534 --regid 65534 --clear-groups --bounding-set -all)
		shift 2
		;;
	*) exit 99 ;;
	esac
done
exec "${become[@]}" env -i PATH="$path" HOME="$home" "$@"
`

func newJob(t *testing.T, upstreamURL string) *job {
	t.Helper()
	needsRoot(t)
	needsTool(t, "setpriv")
	j := &job{workflow: readWorkflow(t), dir: newDir(t), port: freePort(t, false), key: operatorKey + rand.Text()}
	j.home, j.info = filepath.Join(j.dir, "home"), filepath.Join(j.dir, "run", "codex.json")
	makeDir(t, j.home, nobody, 0o700)
	bin := filepath.Join(j.dir, "bin")
	path := bin + ":" + filepath.Dir(gatetest.CaddyBinary) + ":" + os.Getenv("PATH")
	writeFile(t, filepath.Join(bin, "sudo"), fmt.Sprintf(sudo, path, j.home), 0, 0o755)
	values := map[string]string{
		"CODEX_USER": "nobody", "GATE_PORT": fmt.Sprint(j.port), "SERVER_INFO": j.info, "UPSTREAM_URL": upstreamURL + "/v1/responses",
		"GATE_PID": filepath.Join(j.dir, "gate.pid"), "GATE_RELEASE": "", "GATE_SHA256": "", "GATE_COMMIT": j.Env["GATE_COMMIT"],
	}
	for name := range j.Env {
		if _, known := values[name]; !known {
			t.Fatalf("the job has a variable that this test does not know: %s", name)
		}
		j.env = append(j.env, name+"="+values[name])
	}
	temp := filepath.Join(j.dir, "runner")
	makeDir(t, temp, 0, 0o700)
	j.env = append(j.env, "PATH="+path, "RUNNER_TEMP="+temp, "GITHUB_ENV="+filepath.Join(temp, "env"), "GITHUB_OUTPUT="+filepath.Join(temp, "output"))
	return j
}

// run runs a step, and tells its output and exit code.
func (j *job) run(t *testing.T, name string, env ...string) (string, int) {
	t.Helper()
	script := filepath.Join(j.dir, "step.sh")
	writeFile(t, script, j.step(t, name).Run, 0, 0o644)
	// How the runner calls a shell that is named bash.
	cmd := command(t, append(j.env, env...), needsTool(t, "bash"), "--noprofile", "--norc", "-eo", "pipefail", script)
	cmd.Dir = j.dir
	out, code := run(t, cmd)
	if strings.Contains(out, j.key) {
		t.Errorf("%s: the key is in the job's log", name)
	}
	return out, code
}

// start runs the step that starts the gate, and sees to the gate's end.
func (j *job) start(t *testing.T) serverInfo {
	t.Helper()
	out, code := j.run(t, "Start the gate", "OPENAI_API_KEY="+j.key)
	if code != 0 {
		t.Fatalf("exit code %d\n%s", code, out)
	}
	info := readInfo(t, j.info)
	t.Cleanup(func() {
		// (unless the process is gone and its id is another's)
		cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", info.PID))
		if strings.Contains(string(cmdline), j.info) {
			_ = syscall.Kill(info.PID, syscall.SIGKILL)
		}
	})
	return info
}

// holders are the processes that have text in their arguments or environment.
func holders(t *testing.T, text string) []string {
	t.Helper()
	var found []string
	for _, name := range []string{"cmdline", "environ"} {
		files, err := filepath.Glob("/proc/[0-9]*/" + name)
		must(t, err)
		for _, file := range files {
			if content, err := os.ReadFile(file); err == nil && strings.Contains(string(content), text) {
				found = append(found, file)
			}
		}
	}
	return found
}

func TestTheJobsGateServesTheUnprivilegedUserAndHidesTheKey(t *testing.T) {
	u := newUpstream(t)
	j := newJob(t, u.URL)
	info := j.start(t)
	if info.Port != j.port {
		t.Errorf("the gate is on port %d, want GATE_PORT %d", info.Port, j.port)
	}
	ownedBy(t, j.info, nobody)

	// What later steps could find.
	cat := command(t, []string{"KEY=" + j.key}, "cat")
	stdin, err := cat.StdinPipe() // it ends with us
	must(t, err)
	defer stdin.Close()
	canary := start(t, cat)
	if got := holders(t, j.key); len(got) != 1 || got[0] != fmt.Sprintf("/proc/%d/environ", canary.PID()) {
		t.Errorf("the key is in %q, want it in the canary's environment only", got)
	}
	for _, file := range []string{"environ", "mem", "fd/0"} {
		path := fmt.Sprintf("/proc/%d/%s", info.PID, file)
		if out, code := run(t, as(command(t, nil, "cat", path), nobody)); code == 0 {
			t.Errorf("the user of Codex can read %s: %q", path, out)
		}
	}
	must(t, filepath.WalkDir(j.dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		if content, err := os.ReadFile(path); err != nil || strings.Contains(string(content), j.key) {
			t.Errorf("the key is in %s (%v)", path, err)
		}
		return nil
	}))

	for token, status := range map[string]int{"": http.StatusUnauthorized, info.Token: http.StatusOK} {
		if got := turn(t, j.port, token); got != status {
			t.Errorf("status %d, want %d", got, status)
		}
	}
	if got := u.only(t).Header.Get("Authorization"); got != "Bearer "+j.key {
		t.Error("the upstream did not get the key")
	}

	if out, code := j.run(t, "Stop the gate"); code != 0 {
		t.Errorf("exit code %d\n%s", code, out)
	}
	if err := syscall.Kill(info.PID, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the gate still runs (%v)", err)
	}
	if _, err := os.Lstat(j.info); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the server-info file is still there (%v)", err)
	}
}

func TestTheJobWithoutAKeyFailsAtOnceAndSaysWhy(t *testing.T) {
	j := newJob(t, "http://127.0.0.1:1")
	begin := time.Now()
	out, code := j.run(t, "Start the gate", "OPENAI_API_KEY=")
	if code == 0 || !strings.Contains(out, "the key on stdin is not usable: it is empty") {
		t.Errorf("exit code %d, want a failure and its reason:\n%s", code, out)
	}
	if took := time.Since(begin); took > 15*time.Second {
		t.Errorf("it took %v: the step goes on waiting for a gate that has ended", took)
	}
	if out, code := j.run(t, "Stop the gate"); code == 0 {
		t.Errorf("there was nothing to stop, and that is no failure:\n%s", out)
	}
}

func TestTheJobsCodexCompletesATurnWithoutTheKey(t *testing.T) {
	u := newUpstream(t)
	j := newJob(t, u.URL)
	copyCodex(t, filepath.Join(j.dir, "bin", "codex"))
	// (what the step that makes the user leaves there)
	if out, code := run(t, as(command(t, []string{"HOME=" + j.home}, needsTool(t, "git"), "init", "--quiet", filepath.Join(j.home, "work")), nobody)); code != 0 {
		t.Fatal(out)
	}
	j.start(t)
	if out, code := j.run(t, "Configure Codex"); code != 0 {
		t.Fatalf("exit code %d\n%s", code, out)
	}
	out, code := j.run(t, "Run Codex")
	if code != 0 || !strings.Contains(out, "the upstream says hello") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	if got := u.only(t).Header.Get("Authorization"); got != "Bearer "+j.key {
		t.Error("the upstream did not get the key")
	}
	if out, code := j.run(t, "Stop the gate"); code != 0 {
		t.Errorf("exit code %d\n%s", code, out)
	}
}

// copyCodex puts the Codex CLI where every user can run it.
func copyCodex(t *testing.T, to string) {
	t.Helper()
	codex := os.Getenv("CODEX_BINARY")
	if codex == "" {
		codex, _ = exec.LookPath("codex")
	}
	if codex == "" {
		missing(t, "the Codex CLI is not installed; set CODEX_BINARY")
	}
	// npm has a script of its own in front of the program.
	if script, err := filepath.EvalSymlinks(codex); err == nil && filepath.Ext(script) == ".js" {
		pkg := filepath.Dir(filepath.Dir(script))
		for _, scope := range []string{filepath.Dir(pkg), filepath.Join(pkg, "node_modules", "@openai")} {
			if found, _ := filepath.Glob(filepath.Join(scope, "codex-*", "vendor", "*", "bin", "codex")); len(found) == 1 {
				codex = found[0]
			}
		}
	}
	from, err := os.Open(codex)
	must(t, err)
	defer from.Close()
	file, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	must(t, err)
	_, err = io.Copy(file, from)
	must(t, errors.Join(err, file.Close()))
}
