//go:build linux

package examples

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

const (
	unitName = "responses-proxy-gate.service"
	dropIn   = "launch-token.conf"
)

// unitDir is a directory with the unit, and its drop-in if wanted, for an
// installed Caddy.
func unitDir(t *testing.T, withDropIn bool) string {
	t.Helper()
	dir := newDir(t)
	writeFile(t, filepath.Join(dir, unitName), replaceAll(t, readExample(t, "systemd", unitName), "/usr/local/bin/caddy", gatetest.CaddyBinary), 0, 0o644)
	if withDropIn {
		writeFile(t, filepath.Join(dir, unitName+".d", dropIn), readExample(t, "systemd", dropIn), 0, 0o644)
	}
	return dir
}

func bothUnits(t *testing.T, test func(t *testing.T, withDropIn bool)) {
	t.Run("the unit", func(t *testing.T) { test(t, false) })
	t.Run("with the drop-in", func(t *testing.T) { test(t, true) })
}

func TestThePackagedUnitIsTheExampleButForHowToInstallIt(t *testing.T) {
	example := readExample(t, "systemd", unitName)
	made, err := exec.Command("sed", "-f", filepath.Join(gatetest.RepoRoot, "packaging", "unit.sed"), filepath.Join(gatetest.RepoRoot, "examples", "systemd", unitName)).Output()
	must(t, err)
	packaged := strings.ReplaceAll(string(made), "/usr/lib/caddy-responses-proxy-gate/caddy", "/usr/local/bin/caddy")
	before, _, found := strings.Cut(example, "# The .deb of a release")
	_, after, foundEnd := strings.Cut(example, "systemctl enable --now responses-proxy-gate\n")
	if !found || !foundEnd || packaged != before+after {
		t.Errorf("the packaged unit is not the example without the steps of an installation:\n%s", made)
	}
	if strings.Contains(string(made), "/usr/local/") {
		t.Error("the packaged unit runs another Caddy than the package's")
	}
}

func TestSystemdVerifiesTheUnit(t *testing.T) {
	analyze := needsTool(t, "systemd-analyze")
	bothUnits(t, func(t *testing.T, withDropIn bool) {
		dir := unitDir(t, withDropIn)
		verify := func() (string, int) {
			env := []string{"SYSTEMD_UNIT_PATH=" + dir + ":"}
			return run(t, command(t, env, analyze, "verify", "--man=no", "--generators=no", filepath.Join(dir, unitName)))
		}
		if out, code := verify(); code != 0 || strings.Contains(out, dir) || strings.Contains(out, unitName) {
			t.Errorf("exit code %d:\n%s", code, out)
		}
		// It does read the files: a misspelt option in the last one is found.
		last := filepath.Join(dir, unitName)
		if withDropIn {
			last = filepath.Join(dir, unitName+".d", dropIn)
		}
		content, err := os.ReadFile(last)
		must(t, err)
		must(t, os.WriteFile(last, append([]byte("[Service]\nNoNewPrivilege=yes\n"), content...), 0o644))
		if out, _ := verify(); !strings.Contains(out, "NoNewPrivilege") {
			t.Errorf("a misspelt option is not found:\n%s", out)
		}
	})
}

// 0 is a locked room, 96 a service without any sandbox. What the score finds
// missing is the network, and in the drop-in being root.
func TestSystemdFindsTheUnitWellConfined(t *testing.T) {
	analyze := needsTool(t, "systemd-analyze")
	for name, test := range map[string]struct {
		withDropIn bool
		threshold  string
	}{"the unit": {false, "20"}, "with the drop-in": {true, "25"}} {
		t.Run(name, func(t *testing.T) {
			dir := unitDir(t, test.withDropIn)
			out, code := run(t, command(t, []string{"SYSTEMD_UNIT_PATH=" + dir + ":"}, analyze, "security", "--no-pager", "--offline=true", "--threshold="+test.threshold, filepath.Join(dir, unitName)))
			if code != 0 {
				t.Errorf("exit code %d:\n%s", code, out)
			}
		})
	}
}

// option is every value of an option in a unit file, with its prefix.
func option(t *testing.T, file, name string) []string {
	t.Helper()
	var values []string
	for _, found := range regexp.MustCompile(`(?m)^`+name+`=(.*)$`).FindAllStringSubmatch(readExample(t, "systemd", file), -1) {
		values = append(values, found[1])
	}
	if values == nil {
		t.Fatalf("%s has no %s", file, name)
	}
	return values
}

// service is the unit's files below a directory.
type service struct {
	dir    string
	port   int
	env    []string
	moved  []string // old path, new path, for replaceAll
	wanted []string // program and options that make the sandbox we can make
}

// newService lays out what systemd would for the unit: the credentials, each
// for the service alone, and the runtime directory.
func newService(t *testing.T, trust string, owner int, runtimeMode os.FileMode) *service {
	t.Helper()
	s := &service{dir: newDir(t), port: freePort(t, true)}
	credentials := filepath.Join(s.dir, "credentials")
	makeDir(t, credentials, owner, 0o700)
	writeFile(t, filepath.Join(credentials, "openai-api-key"), operatorKey+"\n", owner, 0o400)
	writeFile(t, filepath.Join(credentials, "token"), gateToken+"\n", owner, 0o400)
	must(t, os.Chmod(credentials, 0o500))
	t.Cleanup(func() { _ = os.Chmod(credentials, 0o700) }) // to be removed
	makeDir(t, filepath.Join(s.dir, "run"), owner, runtimeMode)
	makeDir(t, filepath.Join(s.dir, "log"), owner, 0o700)
	writeFile(t, filepath.Join(s.dir, "log", "audit.log"), "", owner, 0o600)
	s.env = []string{"CREDENTIALS_DIRECTORY=" + credentials, "HOME=/", "USER=responses-proxy-gate", trust}
	s.moved = []string{"/usr/local/bin/caddy", gatetest.CaddyBinary, "/etc/responses-proxy-gate", filepath.Join(s.dir, "etc")}
	return s
}

// exec is a command line of the unit, in as much of its sandbox as there is
// without systemd.
func (s *service) exec(t *testing.T, name string, env ...string) *exec.Cmd {
	t.Helper()
	words := append(slices.Clone(s.wanted), strings.Fields(replaceAll(t, option(t, unitName, name)[0], s.moved...))...)
	return command(t, append(slices.Clone(s.env), env...), words[0], words[1:]...)
}

// example is the Caddyfile with the paths, the port and the upstream of a test.
func (s *service) example(t *testing.T, u *upstream, caddyfile string) {
	t.Helper()
	moved := []string{
		"https://api.openai.com", u.URL, "http://:980 {", fmt.Sprintf("http://:%d {", s.port),
		"/run/responses-proxy-gate/", filepath.Join(s.dir, "run") + "/",
		"/var/log/responses-proxy-gate/", filepath.Join(s.dir, "log") + "/",
	}
	path := filepath.Join(s.dir, "etc", "Caddyfile")
	writeFile(t, path, replaceAll(t, caddyfile, moved...), 0, 0o644)
	adaptsAndValidates(t, s.env, path)
}

// setpriv gives a process the capabilities of the unit, no others, and no way
// to get more.
func setpriv(t *testing.T, uid int, capabilities ...string) []string {
	t.Helper()
	if os.Geteuid() != 0 {
		return nil // an ordinary user has none
	}
	set := "-all"
	for _, capability := range capabilities {
		set += ",+" + strings.ToLower(strings.TrimPrefix(capability, "CAP_"))
	}
	options := []string{needsTool(t, "setpriv"), "--no-new-privs", "--bounding-set", set, "--inh-caps", set}
	if uid != 0 {
		options = append(options, "--ambient-caps", set, "--reuid", fmt.Sprint(uid), "--regid", fmt.Sprint(uid), "--clear-groups")
	}
	return append(options, "--")
}

// reload runs ExecReload.
func (s *service) reload(t *testing.T) {
	t.Helper()
	if out, code := run(t, s.exec(t, "ExecReload")); code != 0 {
		t.Errorf("the reload fails with exit code %d:\n%s", code, out)
	}
}

func TestTheServiceServesItsCallersAsAUserOfItsOwn(t *testing.T) {
	u, trust := newTLSUpstream(t)
	s := newService(t, trust, nobody, 0o700)
	s.wanted = setpriv(t, nobody, strings.Fields(option(t, unitName, "AmbientCapabilities")[0])...)
	s.example(t, u, readExample(t, "systemd", "Caddyfile"))

	notify := newNotifySocket(t)
	gate := start(t, s.exec(t, "ExecStart", notify.env()))
	notify.await(t, gate, "READY=1")
	serves(t, u, s.port, gateToken)
	s.reload(t)
	notify.await(t, gate, "READY=1")
	serves(t, u, s.port, gateToken)
	gate.complainsOfNothing(t)
}

func TestTheServiceTellsOneUserATokenThatIsNewAtEveryLaunch(t *testing.T) {
	needsRoot(t)
	u, trust := newTLSUpstream(t)
	s := newService(t, trust, 0, 0o711)
	s.wanted = setpriv(t, 0, strings.Fields(option(t, dropIn, "CapabilityBoundingSet")[1])...)
	// As its comment says: server_info in place of token.
	caddyfile := readExample(t, "systemd", "Caddyfile")
	caddyfile = replaceAll(t, caddyfile, "\t\ttoken {file.", "\t\t# token {file.",
		"# server_info /run", "server_info /run", "# \towner codex\n\t\t# }", fmt.Sprintf("\towner %d:%d\n\t\t}", nobody, nobody))
	must(t, os.Remove(filepath.Join(s.dir, "credentials", "token")))
	s.example(t, u, caddyfile)

	notify := newNotifySocket(t)
	gate := start(t, s.exec(t, "ExecStart", notify.env()))
	notify.await(t, gate, "READY=1")
	info := filepath.Join(s.dir, "run", "codex.json")
	ownedBy(t, info, nobody)
	out, err := as(command(t, nil, gatetest.CaddyBinary, "responses-proxy", "token", "--server-info", info), nobody).Output()
	must(t, err)
	token := strings.TrimSpace(string(out))
	serves(t, u, s.port, token)
	s.reload(t)
	notify.await(t, gate, "READY=1")
	serves(t, u, s.port, token)
	ownedBy(t, info, nobody)
	gate.complainsOfNothing(t)
}

// What RuntimeDirectoryMode, the modes of credentials and harden_process are for.
func TestOtherUsersReachNothingOfTheService(t *testing.T) {
	needsRoot(t)
	u, trust := newTLSUpstream(t)
	const serviceUser, other = nobody, nobody - 1
	s := newService(t, trust, serviceUser, 0o700)
	s.wanted = setpriv(t, serviceUser, strings.Fields(option(t, unitName, "AmbientCapabilities")[0])...)
	s.example(t, u, readExample(t, "systemd", "Caddyfile"))
	notify := newNotifySocket(t)
	gate := start(t, s.exec(t, "ExecStart", notify.env()))
	notify.await(t, gate, "READY=1")
	for _, path := range []string{
		filepath.Join(s.dir, "run", "admin.sock"),
		filepath.Join(s.dir, "credentials", "openai-api-key"),
		fmt.Sprintf("/proc/%d/environ", gate.PID()),
		fmt.Sprintf("/proc/%d/mem", gate.PID()),
	} {
		for _, test := range []string{"-r", "-w"} {
			if _, code := run(t, as(command(t, nil, "/usr/bin/test", test, path), other)); code == 0 {
				t.Errorf("another user may open %s (test %s)", path, test)
			}
		}
	}
	gate.stop(t)
}

func TestTheServiceHasTimeToEndItsAnswers(t *testing.T) {
	grace := regexp.MustCompile(`(?m)^\tgrace_period (\S+)$`).FindStringSubmatch(readExample(t, "systemd", "Caddyfile"))
	if grace == nil {
		t.Fatal("the Caddyfile has no grace_period")
	}
	period, err := time.ParseDuration(grace[1])
	must(t, err)
	timeout, err := time.ParseDuration(option(t, unitName, "TimeoutStopSec")[0])
	must(t, err)
	if timeout <= period {
		t.Errorf("systemd kills the gate after %v, and it may take %v", timeout, period)
	}
}
