package secret

import "strings"

// keySubprotocol is how browsers' WebSocket clients send a key to OpenAI.
const keySubprotocol = "openai-insecure-api-key."

// IsKeySubprotocol tells whether a WebSocket subprotocol has a key in it. Not
// only in front: upstreams may forgive quotes, or bytes that they take for
// spaces.
func IsKeySubprotocol(name string) bool {
	return strings.Contains(strings.ToLower(name), keySubprotocol)
}
