//go:build linux

package examples

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// caddyfileBlocks are the blocks of a page that are marked as no language:
// those are Caddyfiles.
func caddyfileBlocks(page string) []string {
	var blocks []string
	var block strings.Builder
	inside, wanted := false, false
	for line := range strings.Lines(page) {
		fence, isFence := strings.CutPrefix(line, "```")
		switch {
		case isFence && !inside:
			inside, wanted = true, strings.TrimSpace(fence) == ""
			block.Reset()
		case isFence:
			if inside = false; wanted {
				blocks = append(blocks, block.String())
			}
		case inside:
			block.WriteString(line)
		}
	}
	return blocks
}

// Who copies an example and runs "caddy fmt" sees no change.
func TestEveryCaddyfileOfOursIsAsCaddyFormatsIt(t *testing.T) {
	root := filepath.Join("..", "..")
	pages, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	must(t, err)
	files, err := filepath.Glob(filepath.Join(examplesDir, "*", "*Caddyfile"))
	must(t, err)
	texts := map[string]string{}
	for _, file := range append(files, filepath.Join(root, "Caddyfile.example")) {
		content, err := os.ReadFile(file)
		must(t, err)
		texts[file] = string(content)
	}
	for _, page := range append(pages, filepath.Join(root, "README.md")) {
		content, err := os.ReadFile(page)
		must(t, err)
		for _, block := range caddyfileBlocks(string(content)) {
			texts[page+":\n"+block] = block
		}
	}
	if len(texts) < 12 {
		t.Fatalf("there are %d Caddyfiles; some are not looked at", len(texts))
	}
	for name, text := range texts {
		if formatted := string(caddyfile.Format([]byte(text))); formatted != text {
			t.Errorf("%s: caddy fmt would make this of it:\n%s", name, formatted)
		}
	}
}

// The packages of Caddy run it as a user who can write to its home only.
func TestREADMEsCaddyfileStartsForAUserWhoCanWriteToTheirHomeOnly(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	must(t, err)
	config := caddyfileBlocks(string(page))[0]
	u, trust := newTLSUpstream(t)
	dir := newDir(t)
	home := filepath.Join(dir, "home")
	makeDir(t, home, nobody, 0o750)
	writeFile(t, filepath.Join(dir, "Caddyfile"), replaceAll(t, config, "https://api.openai.com", u.URL, "http://:18080 {", "http://:0 {"), 0, 0o644)

	notify := newNotifySocket(t)
	env := []string{"HOME=" + home, "OPENAI_API_KEY=" + operatorKey, trust, notify.env()}
	gate := start(t, as(command(t, env, gatetest.CaddyBinary, "run", "--config", filepath.Join(dir, "Caddyfile")), nobody))
	notify.await(t, gate, "READY=1")
	info := readInfo(t, filepath.Join(home, "gate.json"))
	serves(t, u, info.Port, info.Token)
	gate.stop(t)
}
