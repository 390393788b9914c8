package mirror_test

import (
	"encoding/json"

	"github.com/understudy-log/understudy/test/synthetic"
)

// edited lists other shards in log info: those of the given numbers, the last one as active.
func edited(l *synthetic.RekorV1, shards ...int) synthetic.Fault {
	return synthetic.On(synthetic.LogInfo, func(_ synthetic.Request, a *synthetic.Answer) {
		var info map[string]any
		if err := json.Unmarshal(a.Body, &info); err != nil {
			panic(err)
		}
		inactive, _ := info["inactiveShards"].([]any)
		delete(info, "inactiveShards")
		all := append(inactive, any(info))
		var list []any
		for _, i := range shards[:len(shards)-1] {
			list = append(list, all[i])
		}
		last := map[string]any{"inactiveShards": list}
		for k, v := range all[shards[len(shards)-1]].(map[string]any) {
			last[k] = v
		}
		a.Body, _ = json.Marshal(last)
	})
}
