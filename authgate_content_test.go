package responsesproxygate

import (
	"net/http"
	"testing"
)

func TestOnlyJSONIsTakenForJSON(t *testing.T) {
	const no, yes = "content_type_not_json", "passes"
	for name, c := range map[string]struct {
		values []string
		want   string
	}{
		"plain":                                      {[]string{"application/json"}, yes},
		"in capitals":                                {[]string{"APPLICATION/JSON"}, yes},
		"in odd case":                                {[]string{"Application/Json"}, yes},
		"with a charset":                             {[]string{"application/json; charset=utf-8"}, yes},
		"with a charset and no space":                {[]string{"application/json;charset=UTF-8"}, yes},
		"with a charset in odd case":                 {[]string{"application/json; Charset=Utf-8"}, yes},
		"with a quoted charset":                      {[]string{`application/json; charset="utf-8"`}, yes},
		"with two parameters":                        {[]string{"application/json; charset=utf-8; profile=x"}, yes},
		"with a semicolon in quotes":                 {[]string{`application/json; a="b;c"`}, yes},
		"with a trailing semicolon":                  {[]string{"application/json;"}, yes},
		"with spaces around it":                      {[]string{"  application/json "}, yes},
		"with tabs around it":                        {[]string{"\tapplication/json\t;\tcharset=utf-8"}, yes},
		"with a space before the semicolon":          {[]string{"application/json ;charset=utf-8"}, yes},
		"no header":                                  {nil, no},
		"a header without a value":                   {[]string{}, no},
		"an empty value":                             {[]string{""}, no},
		"a space":                                    {[]string{" "}, no},
		"only parameters":                            {[]string{";charset=utf-8"}, no},
		"only a slash":                               {[]string{"/"}, no},
		"no subtype":                                 {[]string{"application"}, no},
		"an empty subtype":                           {[]string{"application/"}, no},
		"no type":                                    {[]string{"json"}, no},
		"an empty type":                              {[]string{"/json"}, no},
		"a wildcard":                                 {[]string{"*/*"}, no},
		"text/plain":                                 {[]string{"text/plain"}, no},
		"text/plain with a charset":                  {[]string{"text/plain;charset=UTF-8"}, no},
		"text/plain with JSON as a parameter":        {[]string{"text/plain; application/json"}, no},
		"text/plain with JSON in a parameter":        {[]string{"text/plain; a=application/json"}, no},
		"text/plain with JSON in quotes":             {[]string{`text/plain; a=";application/json"`}, no},
		"a form":                                     {[]string{"application/x-www-form-urlencoded"}, no},
		"a multipart form":                           {[]string{"multipart/form-data; boundary=x"}, no},
		"a multipart form with JSON as boundary":     {[]string{"multipart/form-data; boundary=application/json"}, no},
		"text/json":                                  {[]string{"text/json"}, no},
		"JSONP":                                      {[]string{"application/jsonp"}, no},
		"a JSON sequence":                            {[]string{"application/json-seq"}, no},
		"a vendor's JSON":                            {[]string{"application/vnd.api+json"}, no},
		"a longer JSON":                              {[]string{"application/json+x"}, no},
		"JSON below JSON":                            {[]string{"application/json/json"}, no},
		"a space inside":                             {[]string{"application/ json"}, no},
		"a space before the slash":                   {[]string{"application /json"}, no},
		"a word behind it":                           {[]string{"application/json text/plain"}, no},
		"twice":                                      {[]string{"application/json", "application/json"}, no},
		"before text/plain in a second header":       {[]string{"application/json", "text/plain"}, no},
		"after text/plain in a first header":         {[]string{"text/plain", "application/json"}, no},
		"before an empty second header":              {[]string{"application/json", ""}, no},
		"before text/plain in a list":                {[]string{"application/json, text/plain"}, no},
		"before text/plain in a tight list":          {[]string{"application/json,text/plain"}, no},
		"after text/plain in a list":                 {[]string{"text/plain, application/json"}, no},
		"twice in a list":                            {[]string{"application/json, application/json"}, no},
		"before a trailing comma":                    {[]string{"application/json,"}, no},
		"after a leading comma":                      {[]string{",application/json"}, no},
		"before text/plain in a list of parameters":  {[]string{"application/json; charset=utf-8, text/plain"}, no},
		"before text/plain in a quoted parameter":    {[]string{`application/json; a=", text/plain"`}, no},
		"with text/plain as a parameter":             {[]string{"application/json;text/plain"}, no},
		"with a parameter twice":                     {[]string{"application/json;a=b;a=c"}, no},
		"with a parameter twice in two cases":        {[]string{"application/json;a=b;A=c"}, no},
		"with a parameter without a value":           {[]string{"application/json; charset"}, no},
		"with a parameter of an empty value":         {[]string{"application/json; charset="}, no},
		"with a parameter without a name":            {[]string{"application/json; =utf-8"}, no},
		"with an unclosed quote":                     {[]string{`application/json; a="b`}, no},
		"with an unclosed quote before text/plain":   {[]string{`application/json; a="b, text/plain`}, no},
		"with garbage behind a quote":                {[]string{`application/json; a="b"c`}, no},
		"with an escaped quote left open":            {[]string{`application/json; a="b\"`}, no},
		"in quotes":                                  {[]string{`"application/json"`}, no},
		"behind a non-breaking space":                {[]string{"\u00a0application/json"}, no},
		"behind the one byte of a no-break space":    {[]string{"\xa0application/json"}, no},
		"before a non-breaking space":                {[]string{"application/json\u00a0"}, no},
		"before a next-line character":               {[]string{"application/json\u0085"}, no},
		"behind a byte order mark":                   {[]string{"\ufeffapplication/json"}, no},
		"behind a vertical tab":                      {[]string{"\vapplication/json"}, no},
		"before a vertical tab":                      {[]string{"application/json\v"}, no},
		"before a form feed":                         {[]string{"application/json\f; charset=utf-8"}, no},
		"before a NUL":                               {[]string{"application/json\x00"}, no},
		"before a NUL and text/plain":                {[]string{"application/json\x00text/plain"}, no},
		"before a carriage return":                   {[]string{"application/json\r"}, no},
		"before a line break and another header":     {[]string{"application/json\r\nX: y"}, no},
		"with a long s, which folds to s":            {[]string{"application/j\u017fon"}, no},
		"with a letter from another script":          {[]string{"application/js\u043en"}, no},
		"with full-width letters":                    {[]string{"application/\uff4a\uff53\uff4f\uff4e"}, no},
		"with a NUL in a parameter":                  {[]string{"application/json; a=b\x00"}, no},
		"with a vertical tab before a parameter":     {[]string{"application/json;\va=b"}, no},
		"with a non-ASCII parameter":                 {[]string{"application/json; a=\u00fc"}, no},
		"with a non-ASCII parameter in quotes":       {[]string{"application/json; a=\"\u00fc\""}, no},
		"with a line break in a parameter":           {[]string{"application/json; a=b\n"}, no},
		"percent-encoded":                            {[]string{"application%2Fjson"}, no},
		"with a colon in the header's name, doubled": {[]string{"Content-Type: application/json"}, no},
	} {
		t.Run(name, func(t *testing.T) {
			r := goodRequest()
			delete(r.Header, "Content-Type")
			if c.values != nil {
				r.Header["Content-Type"] = c.values
			}
			if got := codeOf(check(testPolicy(), r)); got != c.want {
				t.Errorf("Content-Type %q: got %s, want %s", c.values, got, c.want)
			}
		})
	}
}

func TestABodyNeedsAContentType(t *testing.T) {
	const no, yes = "content_type_not_json", "passes"
	upgrade := http.Header{"Upgrade": {"websocket"}, "Connection": {"Upgrade"}}
	for name, c := range map[string]struct {
		method      string
		protoMajor  int
		length      int64
		header      http.Header
		contentType string
		want        string
	}{
		"a known length":                         {"POST", 1, 2, nil, "", no},
		"an unknown length":                      {"POST", 1, -1, nil, "", no},
		"an unknown length over HTTP/2":          {"POST", 2, -1, nil, "", no},
		"an unknown length and text":             {"POST", 2, -1, nil, "text/plain", no},
		"an unknown length and JSON":             {"POST", 2, -1, nil, "application/json", yes},
		"no body and no type":                    {"POST", 1, 0, nil, "", yes},
		"no body and text":                       {"POST", 1, 0, nil, "text/plain", yes},
		"a GET without a body":                   {"GET", 1, 0, nil, "", yes},
		"a GET with a body":                      {"GET", 1, 2, nil, "text/plain", no},
		"a GET over HTTP/3, which may have one":  {"GET", 3, -1, nil, "text/plain", yes},
		"a HEAD over HTTP/3, which may have one": {"HEAD", 3, -1, nil, "", yes},
		"a GET over HTTP/3 with a known length":  {"GET", 3, 2, nil, "text/plain", no},
		"a POST over HTTP/3":                     {"POST", 3, -1, nil, "text/plain", no},
		"a GET over HTTP/2 of unknown length":    {"GET", 2, -1, nil, "text/plain", no},
		"a GET over HTTP/1 in chunks":            {"GET", 1, -1, nil, "text/plain", no},
		"a WebSocket":                            {"GET", 1, 0, upgrade, "", yes},
		"a WebSocket with a body":                {"GET", 1, 2, upgrade, "", no},
		"a WebSocket with a chunked body":        {"GET", 1, -1, upgrade, "text/plain", no},
		"a WebSocket over HTTP/2":                {"CONNECT", 2, -1, http.Header{":protocol": {"websocket"}}, "", yes},
		"a POST that calls itself an upgrade":    {"POST", 1, 2, upgrade, "text/plain", no},
		"a POST with a :protocol":                {"POST", 2, -1, http.Header{":protocol": {"websocket"}}, "", no},
		"a tunnel over HTTP/2":                   {"CONNECT", 2, -1, nil, "", no},
		"a tunnel for another protocol":          {"CONNECT", 2, -1, http.Header{":protocol": {"connect-udp"}}, "", no},
		"two protocols over HTTP/2":              {"CONNECT", 2, -1, http.Header{":protocol": {"websocket", "x"}}, "", no},
	} {
		t.Run(name, func(t *testing.T) {
			r := goodRequest()
			r.Method, r.ProtoMajor, r.ContentLength, r.Header = c.method, c.protoMajor, c.length, http.Header{}
			for name, values := range c.header {
				r.Header[name] = values
			}
			if c.contentType != "" {
				r.Header.Set("Content-Type", c.contentType)
			}
			if got := codeOf(checkContentType(r)); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestAPageCannotSendJSONUnderASafelistedContentType(t *testing.T) {
	types := []string{
		"application/json", "APPLICATION/json", "application/j\u017fon", "text/plain", "Text/Plain", "multipart/form-data",
		"application/x-www-form-urlencoded", "application/jsonp", "application/", "", "*/*",
	}
	around := []string{"", " ", "\t", " \t ", "\v", "\f", "\x00", "\r\n", "\u00a0", "\xa0", "\u0085", ",", ";", `"`, "\\", "x", "="}
	params := []string{
		"", ";", "; ", ";charset=utf-8", "; charset=utf-8", ";a=b;a=c", `;a="`, `;a="b"`, `;a="\"`, `;a=",`, ",", ", ", "/", ";a=b,",
	}
	seen, accepted, wrong := 0, 0, 0
	for _, first := range types {
		for _, before := range around {
			for _, after := range around {
				for _, param := range params {
					for _, second := range types {
						value := before + first + after + param + second
						seen++
						if !isJSON(value) {
							continue
						}
						accepted++
						if why := wrongToAccept([]string{value}); why != "" {
							if wrong++; wrong <= 5 {
								t.Errorf("Content-Type %q passes, but %s", value, why)
							}
						}
					}
				}
			}
		}
	}
	if wrong > 5 {
		t.Errorf("… and %d others", wrong-5)
	}
	if accepted < 100 {
		t.Errorf("only %d of %d generated types pass: the test proves little", accepted, seen)
	}
}
