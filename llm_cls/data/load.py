import random, tarfile, unicodedata
from llm_cls.data.corpus import *
def load_corpus(config):
    texts=[]
    t=tarfile.open('/work/shared/data/ldcc-20140209.tar.gz')
    for m in t:
        if m.isfile() and m.name.count('/')==2 and not m.name.endswith('LICENSE.txt'):
            L=t.extractfile(m).read().decode().split('\n')
            c=lambda x: unicodedata.normalize('NFKC',x).strip(' \t\r\u3000')
            texts.append(Text(m.name[5:-4],m.name.split('/')[1],c(L[2]),'\n'.join(filter(None,map(c,L[3:])))))
    texts.sort(key=lambda t:t.id); random.Random(42).shuffle(texts)
    n=len(texts);sz=[n//10+(i<n%10) for i in range(10)]; a=sum(sz[:8]); b=a+sz[8]
    s={'train':texts[:a],'val':texts[a:b],'test':texts[b:]}
    if config.limit: s={k:v[:config.limit] for k,v in s.items()}
    return Corpus('livedoor',tuple(sorted({t.label for t in texts})),s,digest_splits(s),True)
